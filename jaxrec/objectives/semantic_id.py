"""Floor 4: what the RQ-VAE minimises."""

import dataclasses

import jax.numpy as jnp

from jaxrec.losses.quantization import codebook, commitment, reconstruction
from jaxrec.models.items.semantic_id import Codebooks, RqVae, stats_of
from jaxrec.objectives.objective import Objective
from jaxrec.structs import Aux


@dataclasses.dataclass(frozen=True)
class SemanticIdWeights:
    """How much the terms beside the reconstruction count."""

    commitment: float = 0.25
    codebook: float = 1.0  # of codebooks that are trained by gradient


def semantic_id(
    model: RqVae, weights: SemanticIdWeights = SemanticIdWeights(), quantised: bool = True
) -> Objective:
    """Reconstruction, commitment, and the codebooks' own term where they have a gradient; means over rows.

    batch: item vectors [B, D]. extra: `Codebooks`, moved by `models.semantic_id.commit`. quantised False: a plain
    autoencoder, which warms up before the codebooks are placed (extra is not read).
    Metrics: `reconstruction`, `commitment`.
    """

    def loss(params, frozen, extra: Codebooks | None, batch, totals, key_B):
        del frozen
        out = model.apply({"params": params}, batch, extra if quantised else None)
        rows = totals["rows"]
        terms = {"reconstruction": reconstruction(out["made"], batch) / rows}
        total = terms["reconstruction"]
        if not quantised:
            return total, Aux(terms)
        terms["commitment"] = commitment(out["residual"], out["code"]) / rows
        total = total + weights.commitment * terms["commitment"]
        trained = params.get("codebook")
        if trained is not None:
            total = total + weights.codebook * codebook(out["residual"], out["code"]) / rows
        # Sums, which microbatches add up: the codebooks move once a step on all of its rows (`commit`), as they
        # would in one batch.
        stats = stats_of(model.cfg, out, key_B[0], trained)
        return total, Aux(terms, stats)

    return Objective(loss, lambda batch: {"rows": jnp.float32(batch.shape[0])})

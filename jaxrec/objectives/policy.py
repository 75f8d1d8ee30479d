"""Floor 4: the policy stage: binary cross-entropy of every known label, p from a table, from evidence, or absent."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrec.losses.labels import binary_cross_entropy
from jaxrec.models.personal.policy import PolicyBatch, PolicyHead, label_logits, profile_of
from jaxrec.models.personal.profile import ProfileEncoder
from jaxrec.objectives.objective import Objective
from jaxrec.structs import Aux
from jaxrec.training.partition import merge


def policy(
    head: PolicyHead,
    positive_W: Float[np.ndarray, " W"],
    encoder: ProfileEncoder | None = None,
    prior: float = 1e-3,
) -> Objective:
    """Trains "head" with "encoder" (p of each row from its evidence) or "profile/p" (a line a tenant), or alone.

    frozen["texts"] is the library (`models.text_vectors.Texts`) that a batch points into. Metrics: `nll` (nats a
    known label) and `accuracy/LABEL`.

    Args:
      head: gives a logit for each label.
      positive_W: weight of each label's positive answers.
      encoder: from evidence to p; None for a profile table, or for a head that takes no person.
      prior: weight of the mean square of p, which keeps a p of few examples near zero.
    """
    labels = head.cfg.labels

    def loss(params, frozen, extra, batch: PolicyBatch, totals, key_B):
        del extra, key_B
        tree = merge(params, frozen)
        p_BE = profile_of(head, encoder, tree, batch)
        sums = binary_cross_entropy(
            label_logits(head, tree, batch, p_BE),
            batch.target_BW,
            jnp.asarray(positive_W),
            jnp.ones(batch.target_BW.shape[0]),
        )
        # By known labels and not by rows: what is unknown in a row counts nowhere, in the denominator neither.
        value = sums["nll"].sum() / totals["known"]
        right = {
            f"accuracy/{label}": sums["correct"][w] / totals[label]
            for w, label in enumerate(labels)
        }
        if p_BE is not None:
            away = jnp.square(p_BE).mean(-1).sum() / totals["rows"]
            return value + prior * away, Aux({"nll": value, "away": away, **right})
        return value, Aux({"nll": value, **right})

    def weigh(batch: PolicyBatch) -> dict[str, Float[Array, ""]]:
        known = (batch.target_BW >= 0).astype(jnp.float32).sum(0)
        each = {label: jnp.maximum(known[w], 1e-6) for w, label in enumerate(labels)}
        rows = jnp.float32(batch.tenant_B.shape[0])
        return {"known": jnp.maximum(known.sum(), 1e-6), "rows": rows, **each}

    return Objective(loss, weigh)

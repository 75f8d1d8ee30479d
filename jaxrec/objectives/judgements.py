"""Floor 4: judgements: of each person some labelled texts are shown, the labels of the others asked (cross-entropy).

A batch [B, S]: item, label, shown (what p is made of), asked (what counts; 0 or 1).
"""

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxrec.losses.labels import cross_entropy
from jaxrec.models.personal.judgement import Models
from jaxrec.objectives.objective import Objective
from jaxrec.structs import Aux


def judgements(models: Models) -> Objective:
    """The mean over asked judgements of -log p(label | text, p of the shown ones)."""

    def loss(
        params: PyTree,
        frozen: PyTree,
        extra: PyTree,
        batch: PyTree,
        totals: PyTree,
        key_B: Array,
    ) -> tuple[Array, Aux]:
        p = models.infer(params, frozen, batch["item"], batch["label"], batch["shown"])
        log_p = models.log_p(params, frozen, p, batch["item"])
        sums = cross_entropy(
            log_p.reshape(-1, log_p.shape[-1]),
            batch["label"].reshape(-1),
            batch["asked"].reshape(-1),
        )
        return sums["nll"] / totals["asked"], Aux({"accuracy": sums["correct"] / totals["asked"]})

    def weigh(batch: PyTree) -> dict[str, Array]:
        return {"asked": jnp.maximum(jnp.sum(batch["asked"]), 1.0)}

    return Objective(loss, weigh)


def own_profiles(models: Models, spread: float) -> Objective:
    """The sum over judgements of -log p(label | text, p of who gave it), p = start + spread x u[person].

    A batch [B]: person (a row of u), item, label, real (0 or 1). Frozen: "weights" and "items" of the models, "start".
    Trains "u" [U, E]. Each row's gradient lies in its own person's row of u.
    """

    def loss(
        params: PyTree, frozen: PyTree, extra: PyTree, batch: PyTree, totals: PyTree, key_B: Array
    ) -> tuple[Array, Aux]:
        p_BE = frozen["start"][None] + spread * params["u"][batch["person"]]
        log_p = models.log_p(frozen["weights"], frozen["items"], p_BE, batch["item"][:, None])[:, 0]
        sums = cross_entropy(log_p, batch["label"], batch["real"])
        return sums["nll"], Aux({})

    return Objective(loss, lambda batch: {"judgements": jnp.sum(batch["real"])})

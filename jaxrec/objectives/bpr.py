"""Floor 4: BPR's stage: what a person took should score above what they did not (Rendle 2009)."""

import jax.numpy as jnp

from jaxrec.data.history_rows import HistoryRows
from jaxrec.losses import ranking
from jaxrec.models.items import bpr as model
from jaxrec.objectives.objective import Objective
from jaxrec.structs import Aux
from jaxrec.tables import RowAdam


def bpr(decay: float = 0.0) -> Objective:
    """Mean over pairs of -log s(taken - other), plus `decay` times the squares of the rows that each pair touches.

    The batch is a `HistoryRows` of width 1: whose history, the item taken as target, and negatives. Metrics: `nll`
    (nats), `accuracy` (pairs in the right order).
    """

    def loss(params, frozen, extra, batch: HistoryRows, totals, key_B):
        del frozen, extra, key_B
        item_BJ = jnp.concatenate([batch.targets_BL, batch.negatives_BLJ[:, 0]], 1)
        user_BE, item_BJW = model.rows(params, batch.who_BL[:, 0], item_BJ)
        score_BJ = model.scores(user_BE, item_BJW)
        weight_B = jnp.ones(len(score_BJ))
        sums = ranking.bpr(score_BJ[:, 0], score_BJ[:, 1:], weight_B)
        nll = sums["nll"] / totals["pairs"]
        touched = jnp.square(user_BE).sum() + jnp.square(item_BJW).sum()
        metrics = {"nll": nll, "accuracy": sums["correct"] / totals["pairs"]}
        return nll + decay * touched / totals["pairs"], Aux(metrics)

    weigh = lambda batch: {"pairs": jnp.float32(len(batch.targets_BL))}
    return Objective(loss, weigh)


def bpr_tables() -> dict[str, RowAdam]:
    """Both tables are updated by the rows of the batch alone."""
    # The negatives are read too and so belong here: a row that the loss reads and that was not gathered comes back
    # as NaN.
    items = lambda b: jnp.concatenate([b.targets_BL.reshape(-1), b.negatives_BLJ.reshape(-1)])
    return {
        "users/table": RowAdam(ids=lambda batch: batch.who_BL),
        "items/table": RowAdam(ids=items),
    }

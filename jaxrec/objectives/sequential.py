"""Floor 4: the sequential stage: at every position of a packed history, the item that came next."""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp

from jaxrec.data.history_rows import HistoryRows
from jaxrec.losses import item_softmax, ranking
from jaxrec.objectives.objective import Objective
from jaxrec.structs import Aux

Module = Any  # a flax module: rows -> z [B, L, D], and `item_vectors`


@dataclasses.dataclass(frozen=True)
class SequentialLoss:
    """What is penalised at each position.

    bce, bpr: the next item against `negatives` that the person never took. full: cross-entropy over all items.
    sampled: over `negatives` items at least, shared by the batch and logQ-corrected, drawn by `popularity`: an item
    with n events with a chance like n^popularity (0: uniformly).
    """

    kind: Literal["bce", "full", "sampled", "bpr"] = "bce"
    negatives: int = 1
    popularity: float = 0.0
    chunk: int = item_softmax.CHUNK  # positions whose scores over all items exist at once


def sequential(model: Module, how: SequentialLoss = SequentialLoss()) -> Objective:
    """Mean over positions that have a next item. Metrics: `nll` (nats); for pairs `accuracy`, those in the right order.

    The batch is a `HistoryRows` with negatives by `data.history_rows`: `Negatives` for bce and bpr, `DrawnItems`
    for sampled, where frozen["log_q"] holds the logarithm of each item's probability. Microbatches share fewer
    draws then.
    """

    def loss(params, frozen, extra, batch: HistoryRows, totals, key_B):
        del extra
        z_BLD = model.apply({"params": params}, batch, key_B)
        items_ID = model.apply({"params": params}, method="item_vectors")
        z_TD, target_T = z_BLD.reshape(-1, z_BLD.shape[-1]), batch.targets_BL.reshape(-1)
        weight_T = (target_T >= 0).astype(jnp.float32)
        if how.kind == "full":
            sums = item_softmax.full(z_TD, items_ID, target_T, weight_T, how.chunk)
        elif how.kind == "sampled":
            # All positions share the draws, so that their scores are one matrix product.
            drawn_J = batch.negatives_BLJ.reshape(-1)
            log_q_I = frozen["log_q"]
            sums = item_softmax.sampled_softmax(
                z_TD, items_ID, target_T, weight_T, drawn_J, log_q_I
            )
        else:
            negative_TJ = batch.negatives_BLJ.reshape(len(target_T), -1)
            against = {"bce": ranking.bce, "bpr": ranking.bpr}[how.kind]
            positive_T = jnp.sum(z_TD * items_ID[jnp.maximum(target_T, 0)], axis=1)
            negative_TJ = jnp.sum(z_TD[:, None] * items_ID[negative_TJ], axis=2)
            sums = against(positive_T, negative_TJ, weight_T)
        nll = sums["nll"] / totals["tokens"]
        metrics = {"nll": nll, "tokens": totals["tokens"]}
        if "correct" in sums:
            metrics["accuracy"] = sums["correct"] / totals["tokens"]
        return nll, Aux(metrics)

    def weigh(batch: HistoryRows):
        count = jnp.sum(batch.targets_BL >= 0).astype(jnp.float32)
        return {"tokens": jnp.maximum(count, 1.0)}

    return Objective(loss, weigh)

"""Floor 4: what generative recommenders minimise: the cross-entropy of the next item's codes, given those before."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrec.data.history_rows import HistoryRows
from jaxrec.losses.tokens import next_codes
from jaxrec.objectives.objective import Objective
from jaxrec.structs import Aux


def generative_rec(model: Any, smoothing: float = 0.0) -> Objective:
    """Decoder-only: every place of packed histories at once, mean over the codes that are asked for.

    frozen: {"codes": [I, Q]}. Metrics: `nll` (nats a code, unsmoothed), `nll_item` (nats an item) and `hit_q` (greedy,
    by level).
    """
    sizes = model.cfg.sizes

    def loss(params, frozen, extra, batch: HistoryRows, totals, key_B):
        del extra
        codes = lambda items_BL: frozen["codes"][jnp.maximum(items_BL, 0)]
        next_BLQ = codes(batch.targets_BL)
        logits = model.apply(
            {"params": params}, codes(batch.items_BL), next_BLQ, batch.segments_BL,
            batch.positions_BL, key_B,
        )  # fmt: skip
        sums = next_codes(logits, next_BLQ, target_mask(batch.targets_BL), sizes, smoothing)
        return _mean(sums, totals["items"], sizes)

    return Objective(loss, lambda batch: {"items": _count(target_mask(batch.targets_BL))})


def tiger(model: Any, smoothing: float = 0.0) -> Objective:
    """Encoder-decoder: one history and its next item a row ({"items": [B, L], "target": [B], "user": [B]})."""
    sizes = model.cfg.sizes

    def loss(params, frozen, extra, batch, totals, key_B):
        del extra
        codes = lambda items: frozen["codes"][jnp.maximum(items, 0)]
        next_BQ = codes(batch["target"])
        logits = model.apply(
            {"params": params}, codes(batch["items"]), batch["items"] >= 0, batch["user"],
            next_BQ, key_B,
        )  # fmt: skip
        weight_B1 = target_mask(batch["target"])[:, None]
        sums = next_codes(logits[:, None], next_BQ[:, None], weight_B1, sizes, smoothing)
        return _mean(sums, totals["items"], sizes)

    return Objective(loss, lambda batch: {"items": _count(target_mask(batch["target"]))})


def target_mask(targets: Array) -> Float[Array, "..."]:
    """1 where there is a target, 0 at padding."""
    return (targets >= 0).astype(jnp.float32)


def _count(weight: Array) -> Float[Array, ""]:
    return jnp.maximum(weight.sum(), 1.0)


def _mean(sums: dict[str, Array], items: Array, sizes: tuple[int, ...]) -> tuple[Array, Aux]:
    codes = items * len(sizes)
    metrics = {"nll": sums["nll"] / codes, "nll_item": sums["nll"] / items}
    metrics |= {f"hit_{q}": sums["correct_Q"][q] / items for q in range(len(sizes))}
    # The smoothed loss is trained on; told is the plain one, which compares between settings.
    return sums["loss"] / codes, Aux(metrics)

"""Floor 1: how good ranked lists are, in plain numpy.

One item is right in each row (leave-one-out), so Recall@k is the hit rate and NDCG@k is 1 / log2(1 + rank). Ranks start
at 1. Equal scores count against the target: an item scored like it stands before it, so that a model which scores
everything alike earns nothing. Nor does one whose scores are not numbers.

A target that stands in its own history already is a *repeat*. Where the history is not recommended again, no list holds
it, so no rank is given to it either: it counts as missed, by scores as by lists (`echo` is the floor for the others).
"""

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxrec.data.histories import Histories


def ranks(
    scores_BI: Float[np.ndarray, "B I"],
    target_B: Int[np.ndarray, " B"],
    seen_BI: Bool[np.ndarray, "B I"] | None = None,
) -> Int[np.ndarray, " B"]:
    """The target's place among all items, or among those that `seen_BI` leaves; I + 1 where it takes the target."""
    own_B1 = np.take_along_axis(scores_BI, target_B[:, None], 1)
    before_BI = ~(scores_BI < own_B1)
    if seen_BI is not None:
        before_BI &= ~seen_BI
    np.put_along_axis(before_BI, target_B[:, None], True, 1)
    rank_B = before_BI.sum(1)
    if seen_BI is not None:
        gone_B = np.take_along_axis(seen_BI, target_B[:, None], 1)[:, 0]
        rank_B[gone_B] = scores_BI.shape[1] + 1
    return rank_B


def ranks_in_lists(
    items_BJ: Int[np.ndarray, "B J"], target_B: Int[np.ndarray, " B"]
) -> Int[np.ndarray, " B"]:
    """The target's place in a list, best first; J + 1 where the list lacks it."""
    hit_BJ = items_BJ == target_B[:, None]
    return np.where(hit_BJ.any(1), hit_BJ.argmax(1) + 1, items_BJ.shape[1] + 1)


def measures(rank_B: Int[np.ndarray, " B"], ks: Iterable[int] = (5, 10)) -> dict[str, float]:
    """Recall (`R@k`) and NDCG (`N@k`), means over rows. Raises ValueError without any row."""
    if not len(rank_B):
        raise ValueError("no rows to rank")
    gain_B = 1 / np.log2(1 + rank_B)
    found: dict[str, float] = {}
    for k in ks:
        hit_B = rank_B <= k
        found |= {f"R@{k}": float(hit_B.mean()), f"N@{k}": float((gain_B * hit_B).mean())}
    return found


def seen_items(histories: Histories) -> Bool[np.ndarray, "B I"]:
    """Which items each row holds already."""
    out_BI = np.zeros((len(histories), histories.n_items), bool)
    out_BI[histories.row_T, histories.item_T] = True
    return out_BI


def repeats(histories: Histories, target_B: Int[np.ndarray, " B"]) -> Bool[np.ndarray, " B"]:
    """Which rows hold their target already."""
    again_T = histories.item_T == target_B[histories.row_T]
    return np.bincount(histories.row_T[again_T], minlength=len(histories)) > 0


def echo(histories: Histories) -> Float[np.ndarray, "B I"]:
    """Scores that give a row's own items back, the latest first: all that a table with repeats may be made of."""
    out_BI = np.full((len(histories), histories.n_items), -np.inf, np.float32)
    np.maximum.at(out_BI, (histories.row_T, histories.item_T), np.arange(len(histories.item_T)))
    return out_BI


def list_measures(
    items_BJ: Int[np.ndarray, "B J"],
    train: Histories,
    vectors_IE: Float[np.ndarray, "I E"] | None = None,
) -> Mapping[str, float | None]:
    """What the lists are like, right or wrong (Vargas & Castells 2011).

    coverage: the share of all items that is in any list. novelty: mean -log2 of the share of training people who
    have the item (an item that nobody has counts as one person's). diversity: mean 1 - cosine over the pairs of a
    list, by `vectors_IE` (absent without them). None: novelty without any list; diversity where no list has two items,
    or the vectors tell nothing.
    """
    real = items_BJ >= 0
    found: dict[str, float | None] = {"coverage": len(np.unique(items_BJ[real])) / train.n_items}
    taken = np.unique(train.row_T * np.int64(train.n_items) + train.item_T)  # once a person
    count_I = np.bincount(taken % train.n_items, minlength=train.n_items)
    share_I = np.maximum(count_I, 1) / max(len(train), 1)
    found["novelty"] = float(-np.log2(share_I[items_BJ[real]]).mean()) if real.any() else None
    if vectors_IE is not None:
        unit_IE = vectors_IE / np.maximum(np.linalg.norm(vectors_IE, axis=1, keepdims=True), 1e-9)
        lists_BJE = unit_IE[np.maximum(items_BJ, 0)] * real[..., None]
        size_B = real.sum(1)
        pairs_B = np.maximum(size_B * (size_B - 1), 1)
        total_B = np.square(lists_BJE.sum(1)).sum(-1) - np.square(lists_BJE).sum((1, 2))
        diverse_B = (1 - total_B / pairs_B)[size_B > 1]
        found["diversity"] = float(diverse_B.mean()) if len(diverse_B) and unit_IE.any() else None
    return found

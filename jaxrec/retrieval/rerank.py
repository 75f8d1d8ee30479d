"""Floor 2: one order out of the opinions of several rankers on the same candidates."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from jaxtyping import Float

from jaxrec.retrieval import top_k
from jaxrec.retrieval.top_k import SearchError
from jaxrec.types import Shortlist

SHORTLIST = "search"  # the name under which a shortlist's own scores take part


def rerank(
    shortlist: Shortlist,
    scores: Mapping[str, Float[np.ndarray, "B J"]],
    weights: Mapping[str, float],
    k: int,
    *,
    method: Literal["z", "rrf"] = "z",
) -> Shortlist:
    """The k candidates of each row that the rankers together put first; scores are the combined ones.

    scores: for each ranker, higher is better; NaN where it has no opinion of a candidate. The shortlist's own scores
    take part under the name "search", if weights name it. weights: of each ranker that counts.
    method: "z" adds standardised scores, "rrf" reciprocal ranks (Cormack 2009).

    Raises SearchError for a weight without scores, no positive weight, or scores of another shape.
    """
    known = {SHORTLIST: shortlist.scores_BJ, **scores}
    lost = sorted(set(weights) - set(known))
    if lost:
        raise SearchError(
            f"a weight is given to {lost[0]!r}, but there are scores of {sorted(known)}"
        )
    if not any(weight > 0 for weight in weights.values()):
        raise SearchError("no ranker has a positive weight")
    for name in weights:
        if known[name].shape != shortlist.items_BJ.shape:
            raise SearchError(
                f"scores of {name!r} are {known[name].shape}, the shortlist {shortlist.items_BJ.shape}"
            )
    real_BJ = shortlist.items_BJ >= 0
    opinions = {name: np.where(real_BJ, known[name], np.nan) for name in weights}
    if method not in ("z", "rrf"):
        raise SearchError(f"there is no method {method!r}; there are z and rrf")
    combine = weighted_z if method == "z" else reciprocal_rank_fusion
    return top_k.best(shortlist.items_BJ, combine(opinions, weights), k)


def weighted_z(
    scores: Mapping[str, Float[np.ndarray, "B J"]], weights: Mapping[str, float]
) -> Float[np.ndarray, "B J"]:
    """Each ranker's scores less their mean, over their deviation, row by row; then the weighted sum.

    A ranker without an opinion (not finite) of a candidate, or with the same one of all, adds 0: the mean.
    """
    total = 0.0
    for name, weight in weights.items():
        held_BJ = np.isfinite(scores[name])
        value_BJ = np.where(held_BJ, scores[name], 0).astype(np.float64)
        count_B1 = np.maximum(held_BJ.sum(1, keepdims=True), 1)
        off_BJ = np.where(held_BJ, value_BJ - value_BJ.sum(1, keepdims=True) / count_B1, 0)
        spread_B1 = np.sqrt(np.square(off_BJ).sum(1, keepdims=True) / count_B1)
        # Equal scores differ by rounding only; such a spread says nothing and must not be divided by.
        size_B1 = np.abs(value_BJ).max(1, keepdims=True, initial=0)
        flat_B1 = spread_B1 <= 1e-6 * np.maximum(size_B1, 1e-30)
        total = total + weight * np.where(flat_B1, 0, off_BJ / np.where(flat_B1, 1, spread_B1))
    return np.asarray(total, np.float32)


def reciprocal_rank_fusion(
    scores: Mapping[str, Float[np.ndarray, "B J"]],
    weights: Mapping[str, float],
    smoothing: float = 60.0,
) -> Float[np.ndarray, "B J"]:
    """The weighted sum of 1 / (smoothing + rank) over rankers (Cormack, Clarke & Buettcher, SIGIR 2009).

    Ranks start at 1; equal scores share the mean of their ranks, and a candidate of which a ranker has no opinion
    (not finite) gets nothing from it.
    """
    total = 0.0
    for name, weight in weights.items():
        held_BJ = np.isfinite(scores[name])
        value_BJ = np.where(held_BJ, scores[name], -np.inf)
        above_BJ = (value_BJ[:, None, :] > value_BJ[:, :, None]).sum(-1)
        alike_BJ = (value_BJ[:, None, :] == value_BJ[:, :, None]).sum(-1)
        rank_BJ = 1 + above_BJ + (alike_BJ - 1) / 2
        total = total + weight * np.where(held_BJ, 1 / (smoothing + rank_BJ), 0)
    return np.asarray(total, np.float32)

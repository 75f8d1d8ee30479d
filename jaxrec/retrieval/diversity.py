"""Floor 2: ten different things out of thirty similar ones: three ways behind one signature, batched in numpy.

distance  pairs whose cosine is above a limit lose the later one; what remains is ordered by its mean cosine distance
          to the others that remain (GenRec's rule).
mmr       maximal marginal relevance (Carbonell & Goldstein 1998): one after another, the item with the highest
          lam * relevance - (1 - lam) * its cosine to the nearest item that is chosen already.
dpp       greedy MAP of a determinantal point process (Chen, Zhang & Zhou, NeurIPS 2018, algorithm 1): the item that
          adds most to the determinant of the kernel quality_i * cosine_ij * quality_j.
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxrec.retrieval.top_k import SearchError
from jaxrec.types import Shortlist

Method = Literal["distance", "mmr", "dpp"]
_EPS = 1e-6


def diversify(
    shortlist: Shortlist,
    vectors_BJD: Float[np.ndarray, "B J D"],
    k: int = 10,
    *,
    method: Method = "distance",
    duplicate: float = 0.95,
    lam: float = 0.7,
) -> Shortlist:
    """k of each row's candidates, in the order in which the method chose them, with the scores that they came with.

    vectors_BJD: the candidates' vectors, of any length (cosines are taken); rows of zeros are unlike everything.
    duplicate: whatever the method, of a pair with a cosine above this the later one is removed first, in one pass
      from the best down (an item that was itself removed removes nothing). 1 or more: nothing is removed.
    lam: for mmr the weight of relevance (0: difference only, 1: the order of the shortlist); for dpp quality is
      exp(a (score - best score)) with a = lam / (2 (1 - lam)), so the same 0 to 1.
    Ties go to the candidate that stands earlier. Rows with fewer than k left end in items -1, scores -inf.

    Raises SearchError for k < 1, lam outside of 0 to 1, vectors of another shape or not finite.
    """
    b, j = shortlist.items_BJ.shape
    if k < 1:
        raise SearchError(f"k is {k}; it is at least 1")
    if not 0 <= lam <= 1:
        raise SearchError(f"lam is {lam}; it lies between 0 and 1")
    if vectors_BJD.shape[:2] != (b, j):
        raise SearchError(f"vectors {vectors_BJD.shape} do not belong to a shortlist of {(b, j)}")
    cosine_BJJ = _cosines(vectors_BJD)
    left_BJ = _without_duplicates(cosine_BJJ, shortlist.items_BJ >= 0, duplicate)
    if method == "distance":
        order_BK = _by_distance(cosine_BJJ, left_BJ, k)
    elif method == "mmr":
        order_BK = _by_margin(cosine_BJJ, shortlist.scores_BJ, left_BJ, k, lam)
    elif method == "dpp":
        order_BK = _by_determinant(cosine_BJJ, shortlist.scores_BJ, left_BJ, k, lam)
    else:
        raise SearchError(f"there is no method {method!r}; there are distance, mmr and dpp")
    items_BK = np.full((b, k), -1, np.int64)
    scores_BK = np.full((b, k), -np.inf, np.float32)
    row, column = np.nonzero(order_BK >= 0)
    from_ = order_BK[row, column]
    items_BK[row, column] = shortlist.items_BJ[row, from_]
    scores_BK[row, column] = shortlist.scores_BJ[row, from_]
    return Shortlist(items_BK, scores_BK)


def mean_distance(vectors_BJD: Float[np.ndarray, "B J D"]) -> Float[np.ndarray, " B"]:
    """How different the items of each row are: the mean of 1 - cosine over its pairs; 0 for fewer than two."""
    j = vectors_BJD.shape[1]
    cosine_BJJ = _cosines(vectors_BJD)
    off_B = cosine_BJJ.sum((1, 2)) - np.einsum("bjj->b", cosine_BJJ)
    return np.where(j > 1, 1 - off_B / max(j * (j - 1), 1), 0.0)


# ------------------------------------------------------------------------------------------ inside


def _cosines(vectors_BJD: np.ndarray) -> np.ndarray:
    # Products first, lengths afterwards: what has to be divided is J x J and not J x D.
    vectors_BJD = np.asarray(vectors_BJD, np.float32)
    products_BJJ = vectors_BJD @ vectors_BJD.swapaxes(1, 2)
    squares_BJ = np.einsum("bjj->bj", products_BJJ)
    if not np.isfinite(squares_BJ).all():
        raise SearchError("a candidate's vector is not finite")
    length_BJ = np.maximum(np.sqrt(squares_BJ), 1e-12)
    cosine_BJJ = products_BJJ / length_BJ[:, :, None] / length_BJ[:, None, :]
    diagonal = np.arange(cosine_BJJ.shape[1])
    cosine_BJJ[:, diagonal, diagonal] = 1  # a row of zeros is still like itself
    return cosine_BJJ


def _without_duplicates(
    cosine_BJJ: np.ndarray, real_BJ: Bool[np.ndarray, "B J"], limit: float
) -> Bool[np.ndarray, "B J"]:
    """Which candidates remain, from the best down."""
    left_BJ = real_BJ.copy()
    close_BJJ = np.triu(cosine_BJJ > limit, 1)
    if limit >= 1 or not close_BJJ.any():
        return left_BJ
    for j in np.flatnonzero(close_BJJ.any((0, 2))):  # only those that are close to a later one
        left_BJ &= ~(close_BJJ[:, j] & left_BJ[:, j, None])
    return left_BJ


def _first(order_BJ: np.ndarray, left_BJ: np.ndarray, k: int) -> Int[np.ndarray, "B K"]:
    """The first k places of an order, -1 beyond those that are left."""
    out_BK = np.full((len(order_BJ), k), -1)
    width = min(k, order_BJ.shape[1])
    out_BK[:, :width] = order_BJ[:, :width]
    out_BK[np.arange(k) >= left_BJ.sum(1)[:, None]] = -1
    return out_BK


def _by_distance(cosine_BJJ: np.ndarray, left_BJ: np.ndarray, k: int) -> np.ndarray:
    others_B1 = left_BJ.sum(1, keepdims=True) - 1
    to_all_BJ = (cosine_BJJ @ left_BJ[..., None].astype(np.float32))[..., 0]
    to_others_BJ = to_all_BJ - np.einsum("bjj->bj", cosine_BJJ)
    distance_BJ = 1 - to_others_BJ / np.maximum(others_B1, 1)
    # Rounded: equal candidates must not be told apart by the order of a sum.
    distance_BJ = np.where(left_BJ, np.round(distance_BJ, 5), -np.inf)
    return _first(np.argsort(-distance_BJ, axis=1, kind="stable"), left_BJ, k)


def _by_margin(
    cosine_BJJ: np.ndarray, scores_BJ: np.ndarray, left_BJ: np.ndarray, k: int, lam: float
) -> np.ndarray:
    b, j = left_BJ.shape
    row = np.arange(b)
    relevance_BJ = np.where(left_BJ, lam * np.where(left_BJ, scores_BJ, 0), -np.inf)
    nearest_BJ = np.zeros((b, j), np.float32)  # nothing is chosen yet: no penalty
    order_BK = np.full((b, k), -1)
    for step in range(min(k, j)):
        best_B = np.argmax(relevance_BJ - (1 - lam) * nearest_BJ, 1)
        order_BK[:, step] = np.where(np.isneginf(relevance_BJ[row, best_B]), -1, best_B)
        relevance_BJ[row, best_B] = -np.inf
        new_BJ = cosine_BJJ[row, best_B]
        nearest_BJ = new_BJ if step == 0 else np.maximum(nearest_BJ, new_BJ)
    return order_BK


def _by_determinant(
    cosine_BJJ: np.ndarray, scores_BJ: np.ndarray, left_BJ: np.ndarray, k: int, lam: float
) -> np.ndarray:
    b, j = left_BJ.shape
    row = np.arange(b)
    if lam == 1:  # quality without limit: the order of the shortlist
        order_BJ = np.argsort(-np.where(left_BJ, scores_BJ, -np.inf), axis=1, kind="stable")
        return _first(order_BJ, left_BJ, k)
    scores_BJ = np.where(left_BJ, scores_BJ, -np.inf)
    top_B1 = scores_BJ.max(1, keepdims=True, initial=-np.inf)
    lag_BJ = np.where(left_BJ, scores_BJ - np.where(left_BJ.any(1, keepdims=True), top_B1, 0), 0)
    quality_BJ = np.exp(lam / (2 * (1 - lam)) * lag_BJ)
    kernel_BJJ = quality_BJ[:, :, None] * cosine_BJJ * quality_BJ[:, None, :]
    gain_BJ = np.where(left_BJ, np.einsum("bjj->bj", kernel_BJJ), -np.inf)
    taken_BJ = ~left_BJ
    rows_BKJ = np.zeros((b, min(k, j), j))  # the rows of the incremental Cholesky factor
    order_BK = np.full((b, k), -1)
    for step in range(min(k, j)):
        # Once the chosen ones span all that is left, gains are zero: the rest follows in the shortlist's order.
        open_BJ = np.where(taken_BJ, -np.inf, np.maximum(gain_BJ, _EPS))
        best_B = np.argmax(open_BJ, 1)
        real_B = ~taken_BJ[row, best_B]
        order_BK[:, step] = np.where(real_B, best_B, -1)
        taken_BJ[row, best_B] = True
        gain_B = np.maximum(gain_BJ[row, best_B], _EPS)
        # One more row of the Cholesky factor (Chen 2018, algorithm 1) gives every candidate's gain; a determinant
        # for each of them would cost a factorisation a candidate and step.
        past_BJ = np.einsum("bk,bkj->bj", rows_BKJ[row, :step, best_B], rows_BKJ[:, :step])
        new_BJ = (kernel_BJJ[row, best_B] - past_BJ) / np.sqrt(gain_B)[:, None]
        rows_BKJ[:, step] = np.where(real_B[:, None], new_BJ, 0)
        gain_BJ = gain_BJ - rows_BKJ[:, step] ** 2
    return order_BK

"""How hard a set of vectors is to search: intrinsic dimension and the contrast of near neighbours, from distances.

All of it is read off r_QK, the distances from held-out queries to their K nearest vectors, and the mean distance to
all vectors. A search among n vectors is easy where the nearest are much nearer than the rest (He, Kumar & Chang,
ICML 2012), and where distances rise slowly with the rank of the neighbour (a low dimension).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxrec.retrieval.exact import ExactSearch

_TINY = 1e-6


@dataclasses.dataclass(frozen=True)
class Distances:
    """r_QK: Euclidean distances to the K nearest, rising; mean_Q: the mean distance to all vectors."""

    r_QK: np.ndarray
    mean_Q: np.ndarray


def distances(
    vectors_ID: Float[np.ndarray, "I D"], q_BD: Float[np.ndarray, "Q D"], k: int = 100
) -> Distances:
    """Exact distances between vectors of length 1. The mean is over a sample of 4,096 vectors."""
    return of_search(ExactSearch(vectors_ID).search(q_BD, k).scores_BJ, vectors_ID, q_BD)


def of_search(
    cosine_QK: Float[np.ndarray, "Q K"],
    vectors_ID: Float[np.ndarray, "I D"],
    q_BD: Float[np.ndarray, "Q D"],
) -> Distances:
    """The same from an exact search that was made already: its scores, best first."""
    step = max(1, len(vectors_ID) // 4096)
    some_BI = q_BD @ np.asarray(vectors_ID[::step], np.float32).T
    return Distances(_distance(cosine_QK), _distance(some_BI).mean(1))


def two_nn(r_QK: Float[np.ndarray, "Q K"]) -> float:
    """Intrinsic dimension by the ratio of the second to the first distance (Facco et al., Sci. Rep. 2017).

    -log(1 - F(mu)) = d log mu, fitted through the origin; the largest tenth of the ratios is left out, as there.
    Queries with a copy among the vectors (distance 0) say nothing and are left out too.
    """
    first_Q, second_Q = r_QK[:, 0], r_QK[:, 1]
    there = first_Q > _TINY
    ratio_Q = np.sort(np.log(second_Q[there] / first_Q[there]))
    rank_Q = np.arange(1, len(ratio_Q) + 1) / (len(ratio_Q) + 1)
    kept = slice(0, int(len(ratio_Q) * 0.9))
    x_Q, y_Q = ratio_Q[kept], -np.log1p(-rank_Q[kept])
    return float((x_Q @ y_Q) / (x_Q @ x_Q))


def likelihood_dimension(r_QK: Float[np.ndarray, "Q K"], k: int) -> float:
    """Intrinsic dimension at the scale of k neighbours (Levina & Bickel, NIPS 2004; inverses averaged as by MacKay
    & Ghahramani): 1 / mean over queries of the mean of log(r_k / r_j), j < k."""
    r_QK = np.maximum(r_QK[:, :k], _TINY)
    inverse_Q = np.log(r_QK[:, -1:] / r_QK[:, :-1]).sum(1) / (k - 1)
    return float(1 / inverse_Q.mean())


def geometry(found: Distances, ks: Sequence[int] = (1, 10, 100)) -> dict[str, float]:
    """Flat numbers: TwoNN, likelihood dimensions at 10, 30 and 100, contrasts at ks (medians over queries), spread.

    contrast_k: mean distance / distance to the k-th nearest. near_k: that distance itself. spread_1: standard
    deviation over queries of log r_1, how differently dense the surroundings of queries are.
    """
    r_QK, mean_Q = found.r_QK, found.mean_Q
    out = {"two_nn": two_nn(r_QK)}
    out |= {f"mle_{k}": likelihood_dimension(r_QK, k) for k in (10, 30, 100) if k <= r_QK.shape[1]}
    for k in (k for k in ks if k <= r_QK.shape[1]):
        r_Q = np.maximum(r_QK[:, k - 1], _TINY)
        out[f"contrast_{k}"] = float(np.median(mean_Q / r_Q))
        out[f"near_{k}"] = float(np.median(r_Q))
        out[f"spread_{k}"] = float(np.log(r_Q).std())
    return out | {"mean": float(mean_Q.mean())}


def slope(sizes: Sequence[int], values: Sequence[float]) -> tuple[float, float]:
    """(a, b) of log value = a + b log size, by least squares: how a distance falls as the set grows."""
    b, a = np.polyfit(np.log(np.asarray(sizes, float)), np.log(np.asarray(values, float)), 1)
    return float(a), float(b)


def extrapolated(sizes: Sequence[int], values: Sequence[float], size: int) -> float:
    """The value that the measured slope leads to at another size."""
    a, b = slope(sizes, values)
    return float(np.exp(a + b * np.log(size)))


def _distance(cosine: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(2 - 2 * cosine, 0))

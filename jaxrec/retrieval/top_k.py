"""Floor 2: the best k of scored candidates as a `Shortlist`; several shortlists merged into one."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from jaxrec.config import RunError
from jaxrec.types import Shortlist


def best(
    items_BJ: Int[np.ndarray, "B J"], scores_BJ: Float[np.ndarray, "B J"], k: int
) -> Shortlist:
    """The k highest of each row, best first; equal scores by the smaller item. Item -1: no candidate.

    Rows with fewer than k candidates, and all rows where J < k, end in items -1 with scores -inf.
    """
    b, j = items_BJ.shape
    scores_BJ = np.where(items_BJ < 0, -np.inf, scores_BJ).astype(np.float32, copy=False)
    if j > 4 * k:  # a full sort of hundreds of candidates would cost more than the rest
        part = np.argpartition(-scores_BJ, k - 1, axis=1)[:, :k]
        items_BJ, scores_BJ = (np.take_along_axis(x, part, 1) for x in (items_BJ, scores_BJ))
    order = np.lexsort((items_BJ, -scores_BJ), axis=1)[:, :k]
    items_BK = np.full((b, k), -1, np.int64)
    scores_BK = np.full((b, k), -np.inf, np.float32)
    width = order.shape[1]
    items_BK[:, :width] = np.take_along_axis(items_BJ, order, 1)
    scores_BK[:, :width] = np.take_along_axis(scores_BJ, order, 1)
    items_BK[np.isneginf(scores_BK)] = -1
    return Shortlist(items_BK, scores_BK)


def merge(parts: Sequence[Shortlist], k: int) -> Shortlist:
    """The k best of several shortlists for the same queries; an item that comes twice keeps its better score."""
    if not parts:
        raise SearchError("there is nothing to merge: no shards")
    items_BJ = np.concatenate([part.items_BJ for part in parts], axis=1)
    scores_BJ = np.concatenate([part.scores_BJ for part in parts], axis=1)
    if len(parts) > 1:
        # By item, and within an item the better score first, so that a repeat stands right behind the one that is
        # kept.
        order = np.lexsort((-scores_BJ, items_BJ), axis=1)
        items_BJ = np.take_along_axis(items_BJ, order, 1)
        scores_BJ = np.take_along_axis(scores_BJ, order, 1)
        again = np.zeros(items_BJ.shape, bool)
        again[:, 1:] = items_BJ[:, 1:] == items_BJ[:, :-1]
        items_BJ = np.where(again, -1, items_BJ)
    return best(items_BJ, scores_BJ, k)


class SearchError(RunError, ValueError):
    """Vectors, queries, files or settings that cannot be searched; the message says what to do."""

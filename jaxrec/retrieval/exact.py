"""Floor 2: exact search on a CPU: every vector is compared with every query, and only the best are ever looked at.

A product of matrices by BLAS, block by block of the vectors; then, instead of sorting a block's scores, two cheap
passes: the maxima of runs of 64 give a bound that the k-th best cannot lie below, and only runs that reach it are
looked into. The bound rises from block to block, so that later blocks have little left to look at.
"""

import numpy as np
from jaxtyping import Bool, Float

from jaxrec.retrieval import top_k
from jaxrec.retrieval.top_k import SearchError
from jaxrec.types import Shortlist

_RUN = 64
_NUMBERS = 1 << 22  # scores of a block: B x rows, 16 MB


class ExactSearch:
    """The rows of `vectors_ID` (float32 or float16, in memory or mapped); an item is its row.

    Nothing is copied or normalised: scores are inner products of what is given. float16 rows are widened block by
    block.
    """

    def __init__(self, vectors_ID: Float[np.ndarray, "I D"]):
        self.vectors_ID = vectors_ID

    def __len__(self) -> int:
        return len(self.vectors_ID)

    def search(
        self,
        q_BD: Float[np.ndarray, "B D"],
        k: int,
        allowed_I: Bool[np.ndarray, " I"] | None = None,
    ) -> Shortlist:
        """The k best rows for each query, among the allowed ones; -1 where there are fewer. Raises SearchError."""
        if k < 1:
            raise SearchError(f"k is {k}; it is at least 1")
        if q_BD.ndim != 2 or q_BD.shape[1] != self.vectors_ID.shape[1]:
            raise SearchError(
                f"queries {q_BD.shape} against vectors of width {self.vectors_ID.shape[1]}"
            )
        q_BD = np.ascontiguousarray(q_BD, np.float32)
        b = max(len(q_BD), 1)
        rows = max(_RUN * 64, _NUMBERS // b // _RUN * _RUN)
        found = top_k.best(np.full((len(q_BD), 0), -1), np.zeros((len(q_BD), 0), np.float32), k)
        for at in range(0, len(self.vectors_ID), rows):
            block_ID = np.asarray(self.vectors_ID[at : at + rows], np.float32)
            scores_BI = q_BD @ block_ID.T
            if allowed_I is not None:
                scores_BI[:, ~allowed_I[at : at + rows]] = -np.inf
            found = _with_block(found, scores_BI, at, k)
        return found


def _with_block(found: Shortlist, scores_BI: np.ndarray, start: int, k: int) -> Shortlist:
    """The best k of what was found so far and of a block of scores whose first item is `start`."""
    b, n = scores_BI.shape
    whole = n // _RUN * _RUN
    run_BR = scores_BI[:, :whole].reshape(b, -1, _RUN).max(-1)
    bound_B1 = found.scores_BJ[:, -1:]
    if run_BR.shape[1] > k:
        # k runs have a maximum this high, so k items score at least this.
        bound_B1 = np.maximum(bound_B1, np.partition(run_BR, -k, axis=1)[:, -k, None])
    # What equals the bound stays in: among equal scores the smaller item wins, and `best` settles that.
    row_R, run_R = np.nonzero(run_BR >= bound_B1)
    items_RX = run_R[:, None] * _RUN + np.arange(_RUN)
    scores_RX = scores_BI[row_R[:, None], items_RX]
    row_X, tail_X = np.nonzero(scores_BI[:, whole:] >= bound_B1)
    keep = scores_RX >= bound_B1[row_R]
    row_X = np.concatenate([np.repeat(row_R, keep.sum(1)), row_X])
    item_X = np.concatenate([items_RX[keep], tail_X + whole])
    # Candidates of a row side by side, as many columns as the row that has most.
    order = np.argsort(row_X, kind="stable")
    row_X, item_X = row_X[order], item_X[order]
    count_B = np.bincount(row_X, minlength=b)
    if not len(row_X):
        return found
    column_X = np.arange(len(row_X)) - np.repeat(np.cumsum(count_B) - count_B, count_B)
    items_BJ = np.full((b, int(count_B.max())), -1, np.int64)
    scores_BJ = np.full(items_BJ.shape, -np.inf, np.float32)
    items_BJ[row_X, column_X] = item_X + start
    scores_BJ[row_X, column_X] = scores_BI[row_X, item_X]
    return top_k.best(
        np.concatenate([found.items_BJ, items_BJ], 1),
        np.concatenate([found.scores_BJ, scores_BJ], 1),
        k,
    )

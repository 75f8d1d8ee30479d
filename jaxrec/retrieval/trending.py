"""Floor 2: what people do now: items by decayed counts of recent events, and the neighbours of the first of them.

The neighbours of trending items are searched once, by `refresh`, so that "more like this" of a popular item, and a
shop window for somebody who is not known, cost no search.
"""

import dataclasses
import threading

import numpy as np
from jaxtyping import Float, Int

from jaxrec.retrieval.index import Index
from jaxrec.retrieval.top_k import SearchError
from jaxrec.types import Shortlist

_FAINT = 1e-6  # a count below this is forgotten


@dataclasses.dataclass(frozen=True)
class _Window:
    """What one refresh found: replaced whole, so that readers in other threads never see half of it."""

    items_J: np.ndarray
    heat_J: np.ndarray
    neighbours: dict[int, Shortlist]


class Trending:
    """Counts of events per item, each worth 2 ** -(age / half_life_s); times in Unix seconds.

    Thread-safe. An event counts as of its own time, in whatever order the events come.
    """

    def __init__(self, half_life_s: float = 7 * 86_400.0):
        if not half_life_s > 0:
            raise SearchError(f"a half-life of {half_life_s} seconds: it must be positive")
        self.half_life_s = half_life_s
        self._lock = threading.Lock()
        self._count: dict[int, float] = {}  # as of self._at
        self._at = 0.0
        self._window = _Window(np.zeros(0, np.int64), np.zeros(0, np.float32), {})

    def __len__(self) -> int:
        return len(self._count)

    def count(self, items_T: Int[np.ndarray, " T"], times_T: np.ndarray) -> None:
        """Takes in events. Raises SearchError for arrays of different lengths and times that are not finite."""
        items_T, times_T = np.asarray(items_T, np.int64), np.asarray(times_T, np.float64)
        if items_T.shape != times_T.shape or items_T.ndim != 1:
            raise SearchError(f"events: {items_T.shape} items, {times_T.shape} times")
        if not np.isfinite(times_T).all():
            raise SearchError("an event's time is not finite")
        if not len(items_T):
            return
        with self._lock:
            if not self._count:
                self._at = float(times_T.max())
            self._move(max(self._at, float(times_T.max())))
            # Counts are kept as of one moment, so that an event which comes late is weighed by its own age, and all
            # items fade by one factor.
            weight_T = np.exp2((times_T - self._at) / self.half_life_s)
            distinct, place_T = np.unique(items_T, return_inverse=True)
            sums = np.bincount(place_T, weight_T)
            for item, value in zip(distinct.tolist(), sums.tolist(), strict=True):
                self._count[item] = self._count.get(item, 0.0) + value

    def heat(
        self, now: float, n: int = 100
    ) -> tuple[Int[np.ndarray, " J"], Float[np.ndarray, " J"]]:
        """The n items with the highest counts as of `now`, and the counts; equal ones by the smaller item.

        Events later than `now` count for more than 1: ask for a time that is not in the past.
        """
        with self._lock:
            item_I = np.fromiter(self._count, np.int64, len(self._count))
            count_I = np.fromiter(self._count.values(), np.float64, len(self._count))
            count_I = count_I * 2.0 ** ((self._at - now) / self.half_life_s)
        order = np.lexsort((item_I, -count_I))[:n]
        return item_I[order], count_I[order].astype(np.float32)

    def refresh(self, index: Index, now: float, *, n: int = 100, k: int = 10) -> int:
        """Finds the n trending items as of `now` that the index holds, and k neighbours of each; returns how many.

        An item is not its own neighbour. Counts that have become faint are forgotten.
        """
        with self._lock:
            self._move(max(self._at, now))
            self._count = {i: c for i, c in self._count.items() if c > _FAINT}
        items_J, heat_J = self.heat(now, max(len(self._count), 1))
        here_J = np.isin(items_J, index.items)
        items_J, heat_J = items_J[here_J][:n], heat_J[here_J][:n]
        neighbours: dict[int, Shortlist] = {}
        if len(items_J):
            found = index.search(index.vectors(items_J), k + 1)
            for i, item in enumerate(items_J.tolist()):
                # k + 1 were asked for, as an item finds itself.
                others = found.items_BJ[i] != item
                others[k:] &= others[:k].sum() < k  # k + 1 others where many vectors are equal
                neighbours[item] = Shortlist(
                    found.items_BJ[i : i + 1, others], found.scores_BJ[i : i + 1, others]
                )
        self._window = _Window(items_J, heat_J, neighbours)
        return len(items_J)

    def top(self, k: int) -> Shortlist:
        """The k trending items of the last `refresh`, one row, scores = counts; fewer: item -1, score -inf."""
        window, width = self._window, min(k, len(self._window.items_J))
        items_BJ, scores_BJ = np.full((1, k), -1, np.int64), np.full((1, k), -np.inf, np.float32)
        items_BJ[0, :width], scores_BJ[0, :width] = window.items_J[:width], window.heat_J[:width]
        return Shortlist(items_BJ, scores_BJ)

    def neighbours(self, item: int) -> Shortlist | None:
        """The neighbours of a trending item as of the last `refresh`, one row; None: not trending, so search."""
        return self._window.neighbours.get(int(item))

    def _move(self, at: float) -> None:
        """Decays all counts to a later time."""
        if at > self._at:
            fade = 2.0 ** ((self._at - at) / self.half_life_s)
            self._count = {item: count * fade for item, count in self._count.items()}
            self._at = at

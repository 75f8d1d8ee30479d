"""Floor 2: labels of items (tenant, category, shop) and the slots that a search may return.

The one place that decides what a restricted search sees: `Index` asks it for a `Selection`, hands its bits to FAISS
and, whatever FAISS answers, drops every slot outside of it.
"""

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from jaxrec.retrieval.top_k import SearchError

Where = Mapping[str, int | Sequence[int] | np.ndarray]
_KEPT = 32  # selections that are kept between searches: a bit and a byte a slot each


@dataclasses.dataclass(frozen=True)
class Selection:
    """Some slots of an index: as a mask, as numbers, and as bits (little-endian) for FAISS."""

    mask_I: np.ndarray
    slots: np.ndarray
    bits: np.ndarray

    def __len__(self) -> int:
        return len(self.slots)


class Partitions:
    """A column of labels for each name; row = slot. Without names nothing can be restricted."""

    def __init__(self, columns: Mapping[str, np.ndarray], slots: int):
        self._columns = {name: np.asarray(column) for name, column in columns.items()}
        self._check(self._columns, slots)
        self._kept: OrderedDict[tuple, Selection] = OrderedDict()
        self._lock = threading.Lock()  # searches in several threads share what is kept

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(self._columns)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The labels by name."""
        return dict(self._columns)

    def add(self, columns: Mapping[str, np.ndarray], count: int) -> None:
        """Labels of `count` further slots: the same names as before. Raises SearchError otherwise."""
        self.check_new(columns, count)
        for name, column in columns.items():
            self._columns[name] = np.concatenate([self._columns[name], np.asarray(column)])
        self.forget()

    def check_new(self, columns: Mapping[str, np.ndarray], count: int) -> None:
        """Raises SearchError where `add` would."""
        if set(columns) != set(self._columns):
            raise SearchError(
                f"the index has labels {sorted(self._columns)}, the new items {sorted(columns)}"
            )
        self._check({name: np.asarray(column) for name, column in columns.items()}, count)

    def forget(self) -> None:
        """Drops the kept selections: the slots have changed."""
        with self._lock:
            self._kept.clear()

    def select(self, where: Where | None, alive_I: Bool[np.ndarray, " I"]) -> Selection | None:
        """The living slots whose labels are among those of `where` in every column that it names.

        None: all slots. Raises SearchError for a name that the index does not have.
        """
        if not where and alive_I.all():
            return None
        key = tuple(sorted((name, _wanted(name, labels)) for name, labels in (where or {}).items()))
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        mask_I = alive_I.copy()
        for name, wanted in key:
            if name not in self._columns:
                has = ", ".join(self._columns) or "none"
                raise SearchError(f"the index has no labels {name!r}; it has: {has}")
            column = self._columns[name]
            mask_I &= column == wanted[0] if len(wanted) == 1 else np.isin(column, wanted)
        slots = np.flatnonzero(mask_I)
        made = Selection(mask_I, slots, np.packbits(mask_I, bitorder="little"))
        with self._lock:
            self._kept[key] = made
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return made

    @staticmethod
    def _check(columns: Mapping[str, np.ndarray], count: int) -> None:
        for name, column in columns.items():
            if column.shape != (count,) or column.dtype.kind not in "iu":
                raise SearchError(
                    f"labels {name!r} are {column.dtype} {column.shape}; one whole number is needed "
                    f"for each of the {count} items"
                )


def _wanted(name: str, labels: int | Sequence[int] | np.ndarray) -> tuple[int, ...]:
    wanted = tuple(sorted({int(label) for label in np.atleast_1d(np.asarray(labels, np.int64))}))
    if not wanted:
        raise SearchError(f"where[{name!r}] is empty: nothing could be found")
    return wanted

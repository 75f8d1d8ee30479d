"""Floor 2: from an item's own number (any int64) to its slot in an index and back, under additions and removals."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from jaxrec.retrieval.top_k import SearchError

_RECENT_MOST = 4096  # changes that are kept apart before the sorted arrays are made again


class ItemIds:
    """The item of every slot, and which slots are alive. An item has at most one living slot.

    Lookups go through a sorted copy plus a small dict of recent changes, 16 bytes an item, where a dict of 1.57
    million takes 200 MB.
    """

    def __init__(
        self, item_I: Int[np.ndarray, " I"], alive_I: Bool[np.ndarray, " I"] | None = None
    ):
        self._item = np.array(item_I, np.int64)
        self._alive = np.ones(len(item_I), bool) if alive_I is None else np.array(alive_I, bool)
        self._n = len(self._item)
        self.dead = int(self._n - self._alive.sum())
        self._recent: dict[int, int] = {}  # item -> slot, or -1 where it was removed
        self._sort()

    def __len__(self) -> int:
        return self._n - self.dead

    @property
    def slots(self) -> int:
        """How many slots there are, the dead ones included."""
        return self._n

    @property
    def items(self) -> Int[np.ndarray, " I"]:
        """The item of each slot."""
        return self._item[: self._n]

    @property
    def alive(self) -> Bool[np.ndarray, " I"]:
        """Which slots still stand for their item."""
        return self._alive[: self._n]

    def slots_of(self, items: Int[np.ndarray, "*b"]) -> Int[np.ndarray, "*b"]:
        """The living slot of each item; -1 where there is none."""
        items = np.asarray(items, np.int64)
        flat = items.reshape(-1)
        slot = np.full(flat.shape, -1, np.int64)
        if len(self._sorted):
            place = np.minimum(np.searchsorted(self._sorted, flat), len(self._sorted) - 1)
            held = self._sorted[place] == flat
            slot[held] = self._order[place[held]]
        if self._recent:
            for i, item in enumerate(flat.tolist()):
                slot[i] = self._recent.get(item, slot[i])
        return slot.reshape(items.shape)

    def check_new(self, items: Int[np.ndarray, " I"]) -> None:
        """Raises SearchError for an item that is here already or comes twice."""
        values, count = np.unique(items, return_counts=True)
        if (count > 1).any():
            raise SearchError(f"item {values[count > 1][0]} comes twice among the new ones")
        known = self.slots_of(items) >= 0
        if known.any():
            raise SearchError(f"item {items[known][0]} is in the index already; remove it first")

    def add(self, items: Int[np.ndarray, " I"]) -> None:
        """Gives the next slots to new items (see `check_new`)."""
        start, need = self._n, self._n + len(items)
        if need > len(self._item):
            # Room for a quarter more: items that come one by one do not copy the whole each time.
            room = max(need, len(self._item) + len(self._item) // 4 + 1024)
            grown, alive = np.zeros(room, np.int64), np.zeros(room, bool)
            grown[:start], alive[:start] = self.items, self.alive
            self._item, self._alive = grown, alive
        self._item[start:need], self._alive[start:need], self._n = items, True, need
        self._changed(items, np.arange(start, need))

    def remove(self, items: Int[np.ndarray, " I"]) -> Int[np.ndarray, " J"]:
        """Ends items; returns the slots they had. Items that are not here are passed over."""
        distinct = np.unique(items)
        slots = self.slots_of(distinct)
        gone, slots = distinct[slots >= 0], slots[slots >= 0]
        self._alive[slots] = False
        self.dead += len(slots)
        self._changed(gone, np.full(len(gone), -1))
        return slots

    def _changed(self, items: Any, slots: Any) -> None:
        if len(self._recent) + len(items) > _RECENT_MOST:
            self._sort()
        else:
            self._recent.update(zip(items.tolist(), slots.tolist(), strict=True))

    def _sort(self) -> None:
        living = np.flatnonzero(self.alive)
        order = np.argsort(self.items[living], kind="stable")
        self._order = living[order]
        self._sorted = self.items[self._order]
        self._recent = {}
        twice = self._sorted[1:][self._sorted[1:] == self._sorted[:-1]]
        if len(twice):
            raise SearchError(f"item {twice[0]} comes twice; ids must differ")

"""Floor 1: who took what: a flat list of interactions, and each person's history in the order of time.

People and items are numbered from 0 without gaps, -1 is nobody or nothing. The names that a data set gives them
stand in `Interactions.users` and `.items`, row i being the name of number i.

Ties: events of one person with the same time stay in the order of the file. Data sets without times are taken to lie in
the order of time already.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int


@runtime_checkable
class EventColumn(Protocol):
    """A column of events that lies outside of memory (`store.events`): indexing it reads."""

    dtype: np.dtype

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> np.ndarray: ...

    def parts(self, first_W: np.ndarray, length_W: np.ndarray) -> "EventColumn":
        """Ranges of the column as a column; nothing is read."""


Column = np.ndarray | EventColumn


@dataclasses.dataclass(frozen=True)
class Interactions:
    """One line an event, in the order of the file. `rating_T` and `time_T` (Unix seconds) where the data have them."""

    user_T: np.ndarray
    item_T: np.ndarray
    users: tuple[str, ...]
    items: tuple[str, ...]
    rating_T: np.ndarray | None = None
    time_T: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.user_T)

    @property
    def n_users(self) -> int:
        """How many people have a number (some may have no event)."""
        return len(self.users)

    @property
    def n_items(self) -> int:
        """How many items have a number."""
        return len(self.items)

    def take(self, rows: np.ndarray) -> "Interactions":
        """Some events, by index or by mask; people and items keep their numbers."""
        part = lambda x: None if x is None else x[rows]
        return dataclasses.replace(
            self,
            user_T=self.user_T[rows],
            item_T=self.item_T[rows],
            rating_T=part(self.rating_T),
            time_T=part(self.time_T),
        )


@dataclasses.dataclass(frozen=True)
class Histories:
    """Rows of different length, one after the other: row b is `item_T[start_B[b] : start_B[b + 1]]`, oldest first.

    `user_B` is the number of the row's person, -1 for somebody whom no table of people knows. The events may lie in a
    store: then rows that are taken are ranges of it, and nothing is read before a column is indexed.
    """

    item_T: Column
    start_B: np.ndarray  # [B + 1]
    user_B: np.ndarray
    n_users: int
    n_items: int
    rating_T: Column | None = None
    time_T: Column | None = None

    def __len__(self) -> int:
        return len(self.user_B)

    def __getitem__(self, row: int) -> Int[np.ndarray, " L"]:
        """The items of one row, oldest first."""
        return self.item_T[self.start_B[row] : self.start_B[row + 1]]

    def __iter__(self) -> Iterator[Int[np.ndarray, " L"]]:
        return (self[row] for row in range(len(self)))

    @property
    def length_B(self) -> Int[np.ndarray, " B"]:
        """How many events each row has."""
        return np.diff(self.start_B)

    @property
    def row_T(self) -> Int[np.ndarray, " T"]:
        """The row of every event."""
        return np.repeat(np.arange(len(self)), self.length_B)

    def take(self, rows: np.ndarray) -> "Histories":
        """Some rows, by index."""
        rows = np.asarray(rows)
        return dataclasses.replace(
            self._of(self.start_B[rows], self.length_B[rows]), user_B=self.user_B[rows]
        )

    def in_memory(self) -> "Histories":
        """The same rows with all their events as arrays."""
        part = lambda x: None if x is None else np.asarray(x)
        return dataclasses.replace(
            self,
            item_T=part(self.item_T),
            rating_T=part(self.rating_T),
            time_T=part(self.time_T),
        )

    def without_last(self, count: int = 1) -> "Histories":
        """Every row without its newest `count` events; rows may become empty."""
        return self._keep(np.maximum(self.length_B - count, 0), from_end=False)

    def newest(self, count: int) -> "Histories":
        """Every row's newest `count` events at most."""
        return self._keep(np.minimum(self.length_B, count), from_end=True)

    def padded(self, length: int) -> Int[np.ndarray, "B L"]:
        """The newest `length` items of each row, right-aligned; -1 before them."""
        out_BL = np.full((len(self), length), -1, self.item_T.dtype)
        newest = self.newest(length)
        place = length - newest.length_B[newest.row_T]
        offset = np.arange(len(newest.item_T)) - newest.start_B[newest.row_T]
        out_BL[newest.row_T, place + offset] = newest.item_T
        return out_BL

    def _keep(self, length_B: np.ndarray, from_end: bool) -> "Histories":
        return self._of(self.start_B[1:] - length_B if from_end else self.start_B[:-1], length_B)

    def _of(self, first_B: np.ndarray, length_B: np.ndarray) -> "Histories":
        """Ranges of events as rows; whose they are stays as it is."""
        part = lambda x: None if x is None else part_of(x, first_B, length_B)
        return dataclasses.replace(
            self,
            item_T=part(self.item_T),
            start_B=np.concatenate([[0], np.cumsum(length_B)]),
            rating_T=part(self.rating_T),
            time_T=part(self.time_T),
        )


def ranges(first_W: np.ndarray, length_W: np.ndarray) -> Int[np.ndarray, " T"]:
    """first, first + 1, ..., for each part, one after the other: one gather for all instead of a loop."""
    start_W = np.cumsum(length_W) - length_W
    return np.arange(length_W.sum()) + np.repeat(first_W - start_W, length_W)


def part_of(column: Column, first_W: np.ndarray, length_W: np.ndarray) -> Column:
    """Ranges of a column as a column of the same kind."""
    if isinstance(column, EventColumn):
        return column.parts(first_W, length_W)
    return column[ranges(first_W, length_W)]


@dataclasses.dataclass(frozen=True)
class Holdout:
    """What is asked: histories, and the one item that came next in each."""

    histories: Histories
    target_B: np.ndarray

    def __len__(self) -> int:
        return len(self.target_B)

    def take(self, rows: np.ndarray) -> "Holdout":
        """Some rows, by index."""
        return Holdout(self.histories.take(rows), self.target_B[rows])


@dataclasses.dataclass(frozen=True)
class Split:
    """What is learned from, what training may look at to stop, and what is reported."""

    train: Histories
    valid: Holdout
    test: Holdout


def histories(events: Interactions) -> Histories:
    """One row for every person (empty ones too), ordered by time, ties in the order of the file."""
    keys = (events.user_T,) if events.time_T is None else (events.time_T, events.user_T)
    order = np.lexsort(keys)  # stable, the last key first
    part = lambda x: None if x is None else x[order]
    start = np.concatenate([[0], np.cumsum(np.bincount(events.user_T, minlength=events.n_users))])
    return Histories(
        item_T=events.item_T[order],
        start_B=start,
        user_B=np.arange(events.n_users),
        n_users=events.n_users,
        n_items=events.n_items,
        rating_T=part(events.rating_T),
        time_T=part(events.time_T),
    )


def from_lists(
    rows: Sequence[Sequence[int]], n_items: int, user_B: np.ndarray | None = None
) -> Histories:
    """Histories of lists of items; by default row b is person b."""
    user_B = np.arange(len(rows)) if user_B is None else user_B
    return Histories(
        item_T=np.array([item for row in rows for item in row], np.int64),
        start_B=np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)]),
        user_B=user_B,
        n_users=int(max(user_B, default=-1)) + 1,
        n_items=n_items,
    )


def leave_one_out(whole: Histories) -> Split:
    """The last item of each person is the test's, the one before the validation's (Kang & McAuley 2018).

    The test's histories hold the validation item. People with fewer than three events are trained on whole and asked
    nothing.
    """
    asked = np.flatnonzero(whole.length_B >= 3)
    people = whole.take(asked)
    before = people.without_last(1)
    length_B = whole.length_B - np.where(whole.length_B >= 3, 2, 0)
    last = lambda rows: rows.item_T[rows.start_B[1:] - 1]
    return Split(
        train=whole._keep(length_B, from_end=False),
        valid=Holdout(before.without_last(1), last(before)),
        test=Holdout(before, last(people)),
    )

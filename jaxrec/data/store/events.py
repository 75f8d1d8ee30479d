"""People's histories in a store: events one after the other, and how many each person has; read where they are asked.

    rows/000000/length    int64 [people]
    rows/000000/item      int64 [events], oldest first within a person; time and rating beside it, where known

A row of a streamed source is a person: {"items": [3, 17, ...], "times": [...], "ratings": [...]}, items being numbers
from 0. Tables of single events are read by `interaction_sets`, in memory, once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxrec.data.histories import Histories
from jaxrec.data.instructions import Skipped
from jaxrec.data.store import arrays
from jaxrec.data.store.arrays import StoredArray
from jaxrec.data.store.manifest import Manifest, Shard, manifest_of, rows_name
from jaxrec.data.store.place import Place, StoreError
from jaxrec.data.store.row_sources import PlacedRows
from jaxrec.data.store.writing import MakeShard, hash_of_rows

COLUMNS = {"item": "items", "time": "times", "rating": "ratings"}  # of a store -> of a row


def columns_of(row: Any) -> tuple[str, ...]:
    """The columns that a store of rows like this one has. Raises StoreError for what is no person with items."""
    if not isinstance(row, Mapping) or row.get("items") is None:
        known = sorted(row) if isinstance(row, Mapping) else type(row).__name__
        raise StoreError(f"a row of histories has a list `items`, and this one has {known}")
    return tuple(name for name, key in COLUMNS.items() if row.get(key) is not None)


def rows_of_people(whole: Histories) -> "list[dict[str, Any]]":
    """Histories that lie in memory as rows of a source, a person each."""
    given = {"item": whole.item_T, "time": whole.time_T, "rating": whole.rating_T}
    there = {COLUMNS[name]: column for name, column in given.items() if column is not None}
    ends = whole.start_B
    return [
        {key: column[ends[b] : ends[b + 1]] for key, column in there.items()}
        for b in range(len(whole))
    ]


def people_shard(columns: Sequence[str], strict: bool = False) -> MakeShard:
    """How a block of people becomes a shard.

    columns: those that every row must have. strict: the first row that is malformed stops. A malformed one keeps its
    number and has no events, so that a person's number is its place in the source.
    """

    def make(place: Place, number: int, rows: PlacedRows) -> Shard:
        skipped, found = Skipped(), []
        nothing = {name: np.zeros(0, np.int64) for name in columns}
        for where, row in rows:
            try:
                found.append(_person(row, columns))
            except (KeyError, TypeError, ValueError) as error:
                reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
                if strict:
                    raise StoreError(f"{where}: {reason}") from error
                skipped.add(f"malformed: {reason}", where)
                found.append(nothing)
        join = lambda name: np.concatenate([one[name] for one in found])
        values = {name: join(name) for name in columns}
        values["length"] = np.array([len(one["item"]) for one in found], np.int64)
        about = {
            name: arrays.write(place, rows_name(number, name), value)
            for name, value in values.items()
        }
        items = int(values["item"].max(initial=-1)) + 1
        return Shard(
            rows=len(found), tokens=len(values["item"]), read=len(rows), held=0, dropped=skipped.counts,
            first=skipped.first, source=hash_of_rows(rows), arrays=about, facts={"items": items},
        )  # fmt: skip

    return make


def _person(row: Any, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """The events of one row, in the order of time where there are times. Raises what says what is wrong."""
    if isinstance(row, ValueError):
        raise ValueError(f"no JSON ({row})")
    found = {name: _numbers(row[COLUMNS[name]], COLUMNS[name]) for name in columns}
    if len({len(column) for column in found.values()}) > 1:
        raise ValueError(f"{', '.join(COLUMNS[name] for name in columns)} are not equally long")
    if (found["item"] < 0).any():
        raise ValueError("an item's number is below 0")
    if "time" in found:
        order = np.argsort(found["time"], kind="stable")
        found = {name: column[order] for name, column in found.items()}
    return found


def _numbers(values: Any, key: str) -> np.ndarray:
    column = np.asarray(values)
    if key == "ratings":
        column = column.astype(np.float64) if column.dtype.kind in "iu" else column
        if column.dtype.kind != "f" and len(column):
            raise TypeError("ratings: numbers are expected")
        return column.astype(np.float64) if not len(column) else column
    if column.dtype.kind not in "iu" and len(column):
        raise TypeError(
            f"{key}: whole numbers are expected, from 0; texts are numbered first"
            if key == "items"
            else f"{key}: whole numbers are expected"
        )
    return column.astype(np.int64)


# ------------------------------------------------------------------------------------------------- reading


class StoredEvents:
    """A column of events that lies in a store, or some ranges of it, one after the other.

    `column[index]` reads (a slice, or places); `parts` gives ranges of it and reads nothing.

    shards: of the whole column. first_W, length_W: the ranges, in places of the whole column.
    """

    def __init__(
        self,
        shards: Sequence[StoredArray],
        first_W: Int[np.ndarray, " W"],
        length_W: Int[np.ndarray, " W"],
    ):
        self.shards, self.dtype = tuple(shards), shards[0].kind
        self._ends = np.cumsum([0, *(shard.shape[0] for shard in shards)])
        self._first_W = first_W
        self._start_W = np.concatenate([[0], np.cumsum(length_W)])

    def __len__(self) -> int:
        return int(self._start_W[-1])

    @property
    def shape(self) -> tuple[int]:
        """As an array's."""
        return (len(self),)

    def parts(
        self, first_W: Int[np.ndarray, " W"], length_W: Int[np.ndarray, " W"]
    ) -> "StoredEvents":
        """Ranges of this column as a column. None may cross an end of this one's own ranges."""
        own = np.searchsorted(self._start_W, first_W, side="right") - 1
        own = np.minimum(own, len(self._first_W) - 1)  # an empty range behind the last event
        return StoredEvents(
            self.shards, self._first_W[own] + first_W - self._start_W[own], length_W
        )

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        index = np.asarray(index)
        own = np.searchsorted(self._start_W, index, side="right") - 1
        place = self._first_W[own] + index - self._start_W[own]
        which = np.searchsorted(self._ends, place, side="right") - 1
        asked = []
        for number in np.unique(which):
            at = np.flatnonzero(which == number)
            shard = self.shards[number]
            asked.append((at, shard, shard.ask(place[at] - self._ends[number])))
        out = np.empty(len(index), self.dtype)
        for at, shard, one in asked:
            out[at] = shard.answer(one)
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)


def open_histories(where: str) -> Histories:
    """The histories of a store: how long each is lies in memory, the events stay where they are.

    Raises StoreError in one line for what is no whole store of histories, or empty.
    """
    place = Place(where)
    found = manifest_of(place)
    if found.plan.kind != "histories":
        raise StoreError(
            f"{where} is a store of {found.plan.kind}, this stage learns from histories"
        )
    if not found.tokens:
        raise StoreError(
            f"{where} holds no event; {'; '.join(found.dropped()) or 'nobody is in it'}"
        )
    columns = found.plan.settings["columns"]
    length_B = np.concatenate([array[:] for array in _opened(place, found, "length")])
    start_B = np.concatenate([[0], np.cumsum(length_B)])
    column = lambda name: StoredEvents(_opened(place, found, name), start_B[:-1], length_B)
    seen = max(shard.facts["items"] for shard in found.shards)
    return Histories(
        item_T=column("item"),
        start_B=start_B,
        user_B=np.arange(len(length_B)),
        n_users=len(length_B),
        n_items=max(int(found.plan.settings.get("items", 0)), seen),
        rating_T=column("rating") if "rating" in columns else None,
        time_T=column("time") if "time" in columns else None,
    )


def summary(where: str) -> str:
    """What a store of histories holds, and what was dropped when it was made, in lines."""
    found = manifest_of(Place(where))
    lines = [
        f"{where}: {found.tokens:,} events of {found.rows:,} people in {len(found.shards)} shards"
    ]
    return "\n".join([*lines, *(f"{where}: {line}" for line in found.dropped())])


def _opened(place: Place, found: Manifest, name: str) -> list[StoredArray]:
    parts = []
    for number, shard in enumerate(found.shards):
        about = shard.arrays[name]
        parts.append(StoredArray(place, rows_name(number, name), about["shape"], about["dtype"]))
    return parts

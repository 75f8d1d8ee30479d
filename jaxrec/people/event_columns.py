"""Floor 2: what is remembered of reviews: numbers in growing columns, some 50 bytes a review and 4 a word; no text."""

from array import array
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int

from jaxrec.people.reviews import Review

NO_TIME = np.iinfo(np.int64).min
FLAT = ("user", "item", "length", "rating", "sentiment", "time")
RAGGED = ("category", "words")


class Names:
    """Names numbered in the order in which they come."""

    def __init__(self) -> None:
        self.number: dict[str, int] = {}
        self.name: list[str] = []

    def __len__(self) -> int:
        return len(self.name)

    def extend(self, names: Iterable[str]) -> Int[np.ndarray, " N"]:
        """The numbers of several names."""
        return np.fromiter((self.add(name) for name in names), np.int32)

    def add(self, name: str) -> int:
        """The number of a name, a new one where it is new."""
        found = self.number.setdefault(name, len(self.name))
        if found == len(self.name):
            self.name.append(name)
        return found


class RaggedColumn:
    """Rows of different length, one after the other, that grow at the end."""

    def __init__(self) -> None:
        self.values, self.ends = array("i"), array("q", [0])

    def append(self, row: Sequence[int]) -> None:
        """One more row."""
        self.values.extend(row)
        self.ends.append(len(self.values))

    def __getitem__(self, row: int) -> Int[np.ndarray, " W"]:
        """A copy of one row."""
        return np.array(self.values[self.ends[row] : self.ends[row + 1]], np.int32)

    def extend(self, values: Int[np.ndarray, " N"], length_T: Int[np.ndarray, " T"]) -> None:
        """Further rows of so many values each, all values one after the other. Each row is sorted."""
        row_N = np.repeat(np.arange(len(length_T)), length_T)
        self.values.frombytes(values[np.lexsort((values, row_N))].astype(np.int32).tobytes())
        ends_T = self.ends[-1] + np.cumsum(length_T)
        self.ends.frombytes(ends_T.astype(np.int64).tobytes())

    def keep(self, kept_T: Bool[np.ndarray, " T"]) -> None:
        """Drops the rows that are not kept."""
        ends = np.array(self.ends)
        length_T = np.diff(ends)
        values = np.array(self.values, np.int32)[np.repeat(kept_T, length_T)]
        self.values = array("i", values.tobytes())
        self.ends = array("q", np.concatenate([[0], np.cumsum(length_T[kept_T])]).tobytes())


class EventColumns:
    """One row an event: numbers of person and item, rating, time, sentiment, length, categories and words.

    A rating or a sentiment that is not known is NaN, a time `NO_TIME`, a length (words of the text) -1.
    """

    def __init__(self) -> None:
        self.user, self.item, self.length = array("i"), array("i"), array("i")
        self.rating, self.sentiment, self.time = array("d"), array("d"), array("q")
        self.category, self.words = RaggedColumn(), RaggedColumn()

    def __len__(self) -> int:
        return len(self.user)

    @property
    def nbytes(self) -> int:
        """Bytes held by all columns."""
        flat = [self.user, self.item, self.length, self.rating, self.sentiment, self.time]
        flat += [c for r in (self.category, self.words) for c in (r.values, r.ends)]
        return sum(column.itemsize * len(column) for column in flat)

    def append(
        self,
        review: Review,
        user: int,
        item: int,
        category: Sequence[int],
        words: Sequence[int],
        length: int,
        sentiment: float | None,
    ) -> None:
        """One more event.

        review: gives rating and time. user, item: their numbers. category: numbers of the item's categories. words:
        numbers of the distinct words; length: how many there are with repeats, -1 without text. sentiment: -1 to 1,
        None unknown.
        """
        nan = float("nan")
        self.user.append(user)
        self.item.append(item)
        self.length.append(length)
        self.rating.append(nan if review.rating is None else review.rating)
        self.sentiment.append(nan if sentiment is None else sentiment)
        self.time.append(NO_TIME if review.time is None else review.time)
        self.category.append(category)
        self.words.append(words)

    def arrays(self) -> dict[str, np.ndarray]:
        """All columns by name, copied: of the ragged ones their values, and how many each row has."""
        found = {name: np.array(getattr(self, name)) for name in FLAT}
        for name in RAGGED:
            column = getattr(self, name)
            found[name] = np.array(column.values, np.int32)
            found[f"{name}_count"] = np.diff(np.array(column.ends, np.int64))
        return found

    def extend(self, columns: Mapping[str, np.ndarray], renamed: Mapping[str, np.ndarray]) -> None:
        """The events of another's `arrays` behind those that are here; renamed: by column, our numbers of its own."""
        for name in FLAT:
            own, new = getattr(self, name), columns[name]
            new = renamed[name][new] if name in renamed else new
            own.frombytes(new.astype(own.typecode).tobytes())
        for name in RAGGED:
            values = renamed[name][columns[name]] if len(columns[name]) else columns[name]
            getattr(self, name).extend(values, columns[f"{name}_count"])

    def keep(self, kept_T: Bool[np.ndarray, " T"]) -> None:
        """Drops the events that are not kept; the others stay in order."""
        for name in FLAT:
            column = getattr(self, name)
            values = np.frombuffer(column, column.typecode)[kept_T] if len(column) else column
            setattr(self, name, array(column.typecode, bytes(memoryview(values).cast("B"))))
        self.category.keep(kept_T)
        self.words.keep(kept_T)

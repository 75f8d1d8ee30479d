"""What every reader gives, and how it says which rows it could not read.

A reader appends events to `Events`, notes what is known of items and people by their names in the data, and tells
`Problems` of each malformed row. Nothing is repaired by guessing.
"""

import dataclasses
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxrec.config import RunError
from jaxrec.data.histories import Interactions, Split

SHOWN = 5  # malformed rows that are shown


class DataError(RunError, ValueError):
    """A data set that can't be read, and what to change."""


class MalformedRow(DataError):
    """A row that can't be read, where `strict` says to stop at the first."""


class Problems:
    """What a reader has to say: malformed rows by reason and the first of them, guesses, and what it left out.

    strict: raise MalformedRow at the first. encoding: of the text files, "" to tell it by looking. day_first: how dates
    between slashes begin, None to tell it by looking.
    """

    def __init__(self, strict: bool = False, encoding: str = "", day_first: bool | None = None):
        self.strict, self.encoding, self.day_first = strict, encoding, day_first
        self.notes: dict[str, None] = {}  # guesses and what was left out, each once, in order
        self.reasons: Counter[str] = Counter()
        self.first: list[str] = []

    @property
    def count(self) -> int:
        """How many rows were malformed."""
        return self.reasons.total()

    def note(self, path: Path, line: int, why: str, text: str = "") -> None:
        """One malformed row: file, line counted from 1, reason, and the row itself.

        path: the file. line: its number, from 1. why: the reason, by which rows are counted. text: the row, of
        which the first 80 characters are shown.
        """
        said = f"{path}:{line}: {why}" + (f": {text.strip()[:80]!r}" if text else "")
        if self.strict:
            raise MalformedRow(said)
        self.reasons[why] += 1
        if len(self.first) < SHOWN:
            self.first.append(said)

    def say(self, note: str) -> None:
        """A guess, or something that was left out; said once."""
        self.notes.setdefault(note)

    def reasons_line(self) -> str:
        """Why rows were skipped and the first of them, in one line; empty where none was."""
        reasons = [f"{why} ({n:,} rows)" for why, n in self.reasons.most_common()]
        return "; ".join([*reasons, *self.first[:1]])

    def summary(self) -> str:
        """The notes, a line for each reason, then the first rows; empty where there is nothing to say."""
        reasons = [f"skipped {n:,} malformed rows: {why}" for why, n in self.reasons.most_common()]
        return "\n".join([*self.notes, *reasons, *(f"  {row}" for row in self.first)])


class Events:
    """Interactions as they are read, a number for each name in the order in which names are met."""

    def __init__(self) -> None:
        self.users: dict[str, int] = {}
        self.items: dict[str, int] = {}
        self._user, self._item = array("q"), array("q")
        self._rating, self._time = array("d"), array("q")
        self.review: list[str] = []
        self.summary: list[str] = []

    def __len__(self) -> int:
        return len(self._user)

    def add(
        self,
        user: str,
        item: str,
        rating: float | None = None,
        time: int | None = None,
        review: str | None = None,
        summary: str | None = None,
    ) -> None:
        """One event. A data set gives rating, time, review and summary to all of its events or to none.

        user, item: their names. rating: on the scale of the data set. time: Unix seconds. review, summary: what was
        written, and its heading.
        """
        self._user.append(self.users.setdefault(user, len(self.users)))
        self._item.append(self.items.setdefault(item, len(self.items)))
        if rating is not None:
            self._rating.append(rating)
        if time is not None:
            self._time.append(time)
        if review is not None:
            self.review.append(review)
        if summary is not None:
            self.summary.append(summary)

    def extend(
        self,
        users: Sequence[str],
        items: Sequence[str],
        ratings: np.ndarray | None = None,
        times: np.ndarray | None = None,
        reviews: Sequence[str] | None = None,
        summaries: Sequence[str] | None = None,
    ) -> None:
        """Many events at once, in far less time than one by one.

        users, items: names, one of each an event. ratings: on the scale of the data set. times: Unix seconds.
        reviews, summaries: what was written, and the headings. None: the data set has none of the kind.
        """
        for names, known, into in (users, self.users, self._user), (items, self.items, self._item):
            into.extend([known.setdefault(name, len(known)) for name in names])
        if ratings is not None:
            self._rating.frombytes(ratings.astype(np.float64).tobytes())
        if times is not None:
            self._time.frombytes(times.astype(np.int64).tobytes())
        self.review.extend(reviews or ())
        self.summary.extend(summaries or ())

    def interactions(self) -> Interactions:
        """All events, in the order in which they were added."""
        user_T = np.array(self._user, np.int64)
        return Interactions(
            user_T=user_T,
            item_T=np.array(self._item, np.int64),
            users=tuple(self.users),
            items=tuple(self.items),
            rating_T=np.array(self._rating, np.float32) if self._rating else None,
            time_T=np.array(self._time, np.int64) if self._time else None,
        )


@dataclasses.dataclass
class Item:
    """What is known of one item."""

    title: str = ""
    brand: str = ""
    category: tuple[str, ...] = ()
    description: str = ""
    asin: str = ""
    code: tuple[str, ...] = ()
    year: str = ""  # of release
    price: str = ""


@dataclasses.dataclass
class RawSet:
    """What a reader found: events, and what is known by *name* of items and people.

    `shop` names each item's shop where there are several, `held_out` further events in the same numbering, and
    `published` a split that came with the data, in the numbering of `events`.
    """

    layout: str
    events: Interactions
    review: list[str] = dataclasses.field(default_factory=list)
    summary: list[str] = dataclasses.field(default_factory=list)
    items: dict[str, Item] = dataclasses.field(default_factory=dict)
    people: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    shop: dict[str, str] = dataclasses.field(default_factory=dict)
    held_out: dict[str, Interactions] = dataclasses.field(default_factory=dict)
    published: Split | None = None

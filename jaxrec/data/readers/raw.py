"""What every reader gives, and how it says which rows it could not read.

A reader appends events to `Events`, notes what is known of items and people by their names in the data, and tells
`Problems` of each malformed row. Nothing is repaired by guessing.
"""

import csv
import dataclasses
import gzip
import io
import json
import math
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxrec.config import RunError
from jaxrec.data.histories import Interactions, Split

SHOWN = 5  # malformed rows that are shown
MILLISECONDS = (
    100_000_000_000  # a time from here on is taken to be in milliseconds (the year 5138 otherwise)
)
REVIEW_LIMIT = 1 << 30  # characters that one cell of a CSV may hold


class DataError(RunError, ValueError):
    """A data set that can't be read, and what to change."""


class MalformedRow(DataError):
    """A row that can't be read, where `strict` says to stop at the first."""


class Problems:
    """Malformed rows: how many for which reason, and where the first ones stand.

    strict: raise MalformedRow at the first.
    """

    def __init__(self, strict: bool = False):
        self.strict = strict
        self.reasons: Counter[str] = Counter()
        self.first: list[str] = []

    @property
    def count(self) -> int:
        """How many rows were malformed."""
        return self.reasons.total()

    def note(self, path: Path, line: int, why: str, text: str = "") -> None:
        """One malformed row: file, line counted from 1, reason, and the row itself."""
        said = f"{path}:{line}: {why}" + (f": {text.strip()[:80]!r}" if text else "")
        if self.strict:
            raise MalformedRow(said)
        self.reasons[why] += 1
        if len(self.first) < SHOWN:
            self.first.append(said)

    def summary(self) -> str:
        """A line for each reason, then the first rows; empty where there was no problem."""
        reasons = [f"skipped {n:,} malformed rows: {why}" for why, n in self.reasons.most_common()]
        return "\n".join([*reasons, *(f"  {row}" for row in self.first)])


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
        """One event. A data set gives rating, time, review and summary to all of its events or to none."""
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
        """Many events at once, in far less time than one by one."""
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


def number(text: Any) -> float:
    """A finite number. Raises ValueError otherwise."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not finite")
    return value


def seconds(text: Any) -> int:
    """Unix seconds; milliseconds (Amazon 2023) are told by their size. Raises ValueError for what is no time."""
    value = int(number(text))
    if value < 0:
        raise ValueError(f"{text!r} is before 1970")
    return value // 1000 if value >= MILLISECONDS else value


def lines(path: Path, encoding: Literal["utf-8", "latin-1"] = "utf-8") -> Iterator[tuple[int, str]]:
    """The lines of a text file, gzipped or not, with their numbers from 1. Raises DataError where it is cut short."""
    with _open(path) as file:
        text = io.TextIOWrapper(file, encoding, errors="replace", newline=None)
        yield from enumerate(_whole(path, text), 1)


def records(path: Path, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV (quoted cells may hold line ends) with the number of the line where each ends."""
    csv.field_size_limit(REVIEW_LIMIT)
    with _open(path) as file:
        text = io.TextIOWrapper(file, "utf-8-sig", errors="replace", newline="")
        reader = csv.reader(
            text,
            delimiter=delimiter,
            quoting=csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE,
        )
        for row in _whole(path, reader):
            yield reader.line_num, row


def read_json(path: Path) -> Any:
    """A JSON file, gzipped or not. Raises DataError where it isn't one."""
    try:
        return json.loads("".join(line for _, line in lines(path)))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON: {error}") from None


def stem(path: Path) -> str:
    """The name without .gz."""
    return path.name.removesuffix(".gz")


def beside(folder: Path, *names: str) -> Path | None:
    """The first of some files that is in a folder, gzipped or not."""
    for name in names:
        for there in (folder / name, folder / f"{name}.gz"):
            if there.is_file():
                return there
    return None


def _open(path: Path) -> Any:
    try:
        return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None


def _whole(path: Path, rows: Any) -> Iterator[Any]:
    try:
        yield from rows
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged or cut short ({error}): fetch it again") from None
    except csv.Error as error:
        raise DataError(f"{path}:{rows.line_num}: not a CSV: {error}") from None

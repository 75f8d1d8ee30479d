"""Floor 2: the profile of each person, from one pass over their reviews; brought up to date event by event.

    profiles = Profiles.build("reviews.parquet", Columns(user="reviewerID", item="asin"))
    profiles["A31U"]     {"activity": {...}, "preferences": {...}, "language": {...}}
    profiles.update(Review("A31U", "B004", rating=5.0, time=1529193600, text="Nice present"))
    profiles.purge(before=1_400_000_000)
    profiles.write("profiles.parquet")

An updated profile equals the one built from all events, a purged one that built from the events that are left: a
profile is a function of the remembered events of its person (and of how many people use a word), whatever their
order. What a person's events do not tell is absent: no ratings, no `avg_rating`.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import fsum, log, sqrt
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.cluster import map_shards
from jaxrec.config import RunError
from jaxrec.people.event_columns import NO_TIME, EventColumns, Names
from jaxrec.people.reviews import BATCH, Review, ReviewColumns, parts, rows, say
from jaxrec.people.words import sentiment, words
from jaxrec.words import without_halves

DAY = 86_400
MONTH = 30 * DAY
_SECTIONS = {
    "activity": {"n_reviews": int, "n_unique_items": int, "review_frequency": float},
    "preferences": {"avg_rating": float, "rating_std": float, "favorite_categories": list},
    "language": {"top_keywords": list, "avg_review_length": float, "sentiment": float},
}


class UnknownPerson(RunError, KeyError):
    """A person without any event."""

    __str__ = Exception.__str__  # KeyError would quote the sentence


@dataclasses.dataclass(frozen=True)
class ProfileConfig:
    """How much a profile lists. `rate_sentiment` off saves some 65 microseconds a short review."""

    keywords: int = 5
    categories: int = 3
    rate_sentiment: bool = True


class Profiles:
    """The remembered events of all people, and a profile of each on demand.

    review_frequency: reviews per 30 days between the first and the last, at least 30 days. rating_std: the sample
    deviation, from two ratings on. avg_review_length: words, of the reviews that have text. sentiment: the mean of
    VADER's compound score. top_keywords: by TF-IDF, the share of one's reviews that have the word against the share of
    people who use it. Of equal words and categories the first by alphabet comes first.
    """

    def __init__(
        self, config: ProfileConfig = ProfileConfig(), rate: Callable[[str], float] = sentiment
    ):
        self.config, self._rate = config, rate
        self._events = EventColumns()
        self._users, self._items, self._categories, self._words = Names(), Names(), Names(), Names()
        self._rows: dict[int, list[int]] = {}
        self._users_of: Counter[int] = Counter()  # word -> people who use it
        self._writers: set[int] = set()  # people with any text
        self._counted: dict[int, int] = {}  # person -> rows that the two above know of
        self._uncounted: set[int] = set()

    @classmethod
    def build(
        cls,
        source: Any,
        columns: ReviewColumns | None = None,
        config: ProfileConfig = ProfileConfig(),
        rate: Callable[[str], float] = sentiment,
        *,
        address: str = "",
        keep: str | Path = "",
        mark: str = "",
        progress: bool = False,
    ) -> "Profiles":
        """One pass over `source` (see `reviews.reviews`), a batch at a time.

        source: as `reviews.reviews` takes it. columns: what the parts of a review are called there, None: the
        usual names. config: how much a profile lists. rate: text to sentiment, -1 to 1. address: of a cluster whose
        workers read the texts (`jaxrec.cluster`); the profiles are the same. keep, mark: a folder for what was read,
        and a hash of source and settings, by which a pass that was stopped goes on. progress: a bar on stderr.
        """
        made, problems = cls(config, rate), Counter()
        read = functools.partial(_read_part, columns or ReviewColumns(), config, rate)
        for one in map_shards(
            read, parts(source), address=address, keep=keep, mark=mark,
            name=lambda number, part: f"reviews {number * BATCH + 1}-{number * BATCH + part.num_rows}",
            progress="reviews" if progress else "",
        ):  # fmt: skip
            problems.update(
                dict(zip(_texts(one, "problems"), one["problem_count"].tolist(), strict=True))
            )
            made.extend(one)
        say(problems)
        return made

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return self._users.number.get(name, -1) in self._rows

    def __iter__(self) -> Iterator[str]:
        """Names of the people who have an event."""
        return (self._users.name[user] for user in self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes of the remembered events, names and indices aside."""
        return self._events.nbytes

    def update(self, review: Review) -> None:
        """One more event of a person, known or new, in whatever order of time."""
        user = self._users.add(review.user)
        said = [] if review.text is None else words(review.text)
        distinct = sorted({self._words.add(word) for word in said})
        rated = None
        if review.text is not None and self.config.rate_sentiment:
            rated = self._rate(review.text)
        self._rows.setdefault(user, []).append(len(self._events))
        self._uncounted.add(user)
        self._events.append(
            review,
            user,
            self._items.add(review.item),
            sorted({self._categories.add(without_halves(c)) for c in review.category}),
            distinct,
            -1 if review.text is None else len(review.text.split()),
            rated,
        )

    def state(self) -> dict[str, np.ndarray]:
        """The remembered events as arrays, and the names that their numbers stand for."""
        found = self._events.arrays()
        for name, names in self._names().items():
            found |= _blob(f"{name}_names", names.name)
        return found

    def extend(self, state: Mapping[str, np.ndarray]) -> None:
        """The events of another `state`, in their order: as if each were an `update`."""
        renamed = {
            name: names.extend(_texts(state, f"{name}_names"))
            for name, names in self._names().items()
        }
        first = len(self._events)
        self._events.extend(state, renamed)
        for row, user in enumerate(self._events.user[first:], first):
            self._rows.setdefault(user, []).append(row)
            self._uncounted.add(user)

    def _names(self) -> dict[str, Names]:
        """By the column whose numbers they name."""
        return {
            "user": self._users,
            "item": self._items,
            "category": self._categories,
            "words": self._words,
        }

    def purge(self, before: int) -> int:
        """Forgets the events before a time (Unix seconds), and people who have no other; how many were forgotten.

        Events without a time stay: nobody knows their age.
        """
        time_T = np.array(self._events.time, np.int64)
        kept_T = (time_T >= before) | (time_T == NO_TIME)
        self._events.keep(kept_T)
        self._rows, self._counted = {}, {}
        self._users_of, self._writers = Counter(), set()
        for row, user in enumerate(self._events.user):
            self._rows.setdefault(user, []).append(row)
        self._uncounted = set(self._rows)
        return int((~kept_T).sum())

    def __getitem__(self, name: str) -> dict[str, dict[str, Any]]:
        """The profile of one person. Raises UnknownPerson where no event of theirs is remembered."""
        user = self._users.number.get(name, -1)
        if user not in self._rows:
            raise UnknownPerson(f"nobody called {name!r} has any event here")
        self._count_words()
        rows = self._rows[user]
        return {
            "activity": self._activity(rows),
            "preferences": self._preferences(rows),
            "language": self._language(rows),
        }

    def write(self, path: str | Path, batch: int = 8192) -> None:
        """All profiles as Parquet: `user`, and one struct a section, absent fields null.

        A name that holds half a character, which no file takes, is written with its code ("\\ud83d").
        """
        from pyarrow import RecordBatch, parquet

        with parquet.ParquetWriter(path, _schema()) as out:
            for names in _chunks(self, batch):
                rows = [{"user": _written(name), **self[name]} for name in names]
                out.write_batch(RecordBatch.from_pylist(rows, _schema()))

    # ---------------------------------------------------------------------------------- inside

    def _count_words(self) -> None:
        """Counts who uses which word, for the people with new events: once each, not once an event."""
        events = self._events
        for user in self._uncounted:
            rows, counted = self._rows[user], self._counted.get(user, 0)
            known = {word for row in rows[:counted] for word in events.words[row].tolist()}
            new = {word for row in rows[counted:] for word in events.words[row].tolist()}
            self._users_of.update(new - known)
            self._counted[user] = len(rows)
            if any(events.length[row] >= 0 for row in rows[counted:]):
                self._writers.add(user)
        self._uncounted.clear()

    def _activity(self, rows: list[int]) -> dict[str, Any]:
        events = self._events
        found: dict[str, Any] = {
            "n_reviews": len(rows),
            "n_unique_items": len({events.item[row] for row in rows}),
        }
        times = [events.time[row] for row in rows if events.time[row] != NO_TIME]
        if times:
            span = max(max(times) - min(times), MONTH)
            found["review_frequency"] = len(times) * MONTH / span
        return found

    def _preferences(self, rows: list[int]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        ratings = [r for row in rows if (r := self._events.rating[row]) == r]
        if ratings:
            found["avg_rating"] = mean = fsum(ratings) / len(ratings)
            if len(ratings) > 1:
                spread = fsum((r - mean) ** 2 for r in ratings)
                found["rating_std"] = sqrt(spread / (len(ratings) - 1))
        count = Counter(c for row in rows for c in self._events.category[row].tolist())
        weight = {self._categories.name[c]: float(n) for c, n in count.items()}
        if weight:
            found["favorite_categories"] = _best(weight, self.config.categories)
        return found

    def _language(self, rows: list[int]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        written = [row for row in rows if self._events.length[row] >= 0]
        if not written:
            return found
        count = Counter(w for row in written for w in self._events.words[row].tolist())
        people = len(self._writers)
        weight = {
            self._words.name[w]: n * (log((1 + people) / (1 + self._users_of[w])) + 1)
            for w, n in count.items()
        }
        if weight:
            found["top_keywords"] = _best(weight, self.config.keywords)
        found["avg_review_length"] = sum(self._events.length[row] for row in written) / len(written)
        rated = [s for row in written if (s := self._events.sentiment[row]) == s]
        if rated:
            found["sentiment"] = fsum(rated) / len(rated)
        return found


def _read_part(
    columns: ReviewColumns, config: ProfileConfig, rate: Callable[[str], float], part: Any
) -> dict[str, np.ndarray]:
    """The `state` of the profiles of one Arrow batch, and what was wrong with its rows."""
    made, problems = Profiles(config, rate), Counter()
    for review in rows(part, columns, problems):
        made.update(review)
    count = np.array(list(problems.values()), np.int64)
    return made.state() | _blob("problems", list(problems)) | {"problem_count": count}


def _blob(name: str, texts: list[str]) -> dict[str, np.ndarray]:
    """Texts as two arrays: their bytes, and how many each has. An array of texts would be as wide as its longest."""
    data = [text.encode("utf-8", "surrogatepass") for text in texts]
    return {
        name: np.frombuffer(b"".join(data), np.uint8),
        f"{name}_bytes": np.array([len(one) for one in data], np.int64),
    }


def _texts(arrays: Mapping[str, np.ndarray], name: str) -> list[str]:
    whole, ends = arrays[name].tobytes(), np.cumsum(arrays[f"{name}_bytes"]).tolist()
    return [
        whole[start:end].decode("utf-8", "surrogatepass")
        for start, end in zip([0, *ends], ends, strict=False)
    ]


def read_profiles(path: str | Path) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """Name and profile of everybody in a file that `Profiles.write` wrote; absent fields are absent again."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        for part in file.iter_batches():
            for row in part.to_pylist():
                user = row.pop("user")
                yield (
                    user,
                    {
                        section: {
                            name: value for name, value in fields.items() if value is not None
                        }
                        for section, fields in row.items()
                    },
                )


def _schema() -> Any:
    import pyarrow as pa

    of = {int: pa.int64(), float: pa.float64(), list: pa.list_(pa.string())}
    sections = {
        section: pa.struct([(name, of[kind]) for name, kind in fields.items()])
        for section, fields in _SECTIONS.items()
    }
    return pa.schema([("user", pa.string()), *sections.items()])


def _written(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _best(weight: Mapping[str, float], count: int) -> list[str]:
    return sorted(weight, key=lambda name: (-weight[name], name))[:count]


def _chunks(names: Iterable[str], size: int) -> Iterator[list[str]]:
    chunk: list[str] = []
    for name in names:
        chunk.append(name)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk

"""A data set of interactions, whatever layout it was published in: one config, one `read`.

    read(DataConfig("amazon14-beauty"))                       a folder under JAXREC_DATA
    read(DataConfig(path="ratings.dat", min_item=5))          any file or folder
    read(DataConfig(path="orders.csv", items="titles.csv"))   a shop's own files

People and items are numbered by the value of their published names where these are whole numbers, and otherwise in the
order in which the file names them; `Interactions.users` and `.items` keep the names. Events stay in the order of the
file; `histories.histories` orders each person's by time (ties: the order of the file). The functions at the end give
the rows that stay: low ratings, repeated events, people and items with too few; `compact` then numbers without gaps.
"""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Int

from jaxrec.data.folder import dataset
from jaxrec.data.histories import Interactions, Split
from jaxrec.data.readers.item_table import join_items, read_items
from jaxrec.data.readers.layouts import read_layout
from jaxrec.data.readers.names import alike
from jaxrec.data.readers.raw import DataError, Item, Problems, RawSet
from jaxrec.data.store.manifest import is_store

if TYPE_CHECKING:
    import pyarrow

logger = logging.getLogger(__name__)
DATED = 100_000_000  # times that all lie before this (1973) are numbers of some other clock
Duplicates = Literal[
    "all", "first", "last"
]  # of one person's events with one item, those that stand


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which data set, and which of its events stand. With a path no name is needed, and none counts.

    Columns are told by their header, with the names that `readers.headers` lists, and without one by their values; what
    was taken for what is said. user, item, rating, time, items_id and items_title settle it.
    """

    name: str = ""  # a folder under JAXREC_DATA
    path: str | Path | None = (
        None  # or any file or folder: CSV, TSV, ; or |, JSON lines, Parquet, gzipped or not
    )
    layout: str = "auto"  # or: recbole movielens amazon-json json table sequences pairs netflix cdrib minionerec
    file: str = ""  # of a folder with several sets of events: which file
    min_user: int = 0  # k-core, after all else: events a person must have
    min_item: int = 0  # and events an item must have
    min_rating: float | None = None  # events rated lower are dropped
    max_rating: float | None = None  # and those rated higher: 99 is how some sets say "not rated"
    duplicates: Duplicates = "all"  # of one person's events with one item: all, the first, the last
    whole_catalogue: bool = False  # items without events are numbered too, after the others
    strict: bool = False  # stop at the first malformed row
    user: str = ""  # columns of a table by name (or by position from 0, where it has no header),
    item: str = ""  # needed only where looking does not tell; "none" for a rating or a time
    rating: str = ""  # that is there and should not be read
    time: str = ""
    items: str | Path | None = None  # a table of titles, brands, categories, descriptions, prices
    items_id: str = ""  # its columns by name, where looking does not tell
    items_title: str = ""
    day_first: bool | None = None  # of 03/04/2009: whether it is in April, where no date tells
    encoding: str = (
        ""  # of text files that are not UTF-8, where looking does not tell: cp1251, latin-1 ...
    )


@dataclasses.dataclass(frozen=True)
class Items:
    """What is known of each item, row i being item i. A field that the set knows for no item is None."""

    title: tuple[str, ...] | None = None
    brand: tuple[str, ...] | None = None
    category: tuple[tuple[str, ...], ...] | None = None
    description: tuple[str, ...] | None = None
    asin: tuple[str, ...] | None = None
    code: tuple[tuple[str, ...], ...] | None = None  # published semantic ids
    year: tuple[str, ...] | None = None  # of release
    price: tuple[str, ...] | None = None

    def text(self, item: int) -> str:
        """What an encoder reads of an item: "Title | Brand | Category > Category"; what is unknown is left out."""
        parts = [
            self.title[item] if self.title else "",
            self.brand[item] if self.brand else "",
            " > ".join(self.category[item]) if self.category else "",
        ]
        return " | ".join(part for part in parts if part)

    def texts(self) -> list[str]:
        """`text` of every item; empty where the set knows nothing of its items."""
        known = next((x for x in (self.title, self.brand, self.category) if x is not None), ())
        return [self.text(item) for item in range(len(known))]


@dataclasses.dataclass(frozen=True)
class Reviews:
    """What people wrote: row t belongs to event t of the interactions."""

    text: tuple[str, ...]
    summary: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class InteractionSet:
    """Who took what, and what is known beside.

    people: side features by name, each a tuple by person's number ("" where unknown); empty where there are none.
    published: the split that came with the data. held_out: further events by name ("valid", "test"), same numbers.
    shops, shop_I: of several shops over one user base, their names and each item's shop.
    """

    name: str
    layout: str
    interactions: Interactions
    items: Items
    people: Mapping[str, tuple[str, ...]]
    problems: Problems
    reviews: Reviews | None = None
    published: Split | None = None
    held_out: Mapping[str, Interactions] = dataclasses.field(default_factory=dict)
    shops: tuple[str, ...] = ()
    shop_I: np.ndarray | None = None

    def summary(self) -> str:
        """Counts in a line, then what was guessed, left out and malformed."""
        events = self.interactions
        line = f"{self.name}: {len(events):,} events of {events.n_users:,} people with {events.n_items:,} items"
        if events.time_T is not None and len(events):
            line += f", {_day(events.time_T.min())} to {_day(events.time_T.max())}"
        return "\n".join([f"{line} ({self.layout})", *self.problems.summary().splitlines()])

    def arrow(self) -> "pyarrow.Table":
        """The events as an Arrow table: user, item, and rating, time, review, summary where the set has them."""
        import pyarrow as pa

        events, reviews = self.interactions, self.reviews
        columns = {
            "user": events.user_T,
            "item": events.item_T,
            "rating": events.rating_T,
            "time": events.time_T,
            "review": reviews.text if reviews else None,
            "summary": reviews.summary if reviews else None,
        }
        return pa.table({key: pa.array(x) for key, x in columns.items() if x is not None})


def read(config: DataConfig) -> InteractionSet:
    """The data set that the config names.

    Raises DataMissing where it is not there; DataError where no layout fits, a file is damaged, or no event is left;
    MalformedRow at the first malformed row where `strict`. Otherwise they are counted, and the first ones logged.
    """
    if not config.name and config.path is None:
        raise DataError("a data set is told by data.path, any file or folder, or by data.name")
    path = dataset(config.name) if config.path is None else Path(config.path).expanduser()
    if config.path is not None and is_store(str(config.path)):
        raise DataError(
            f"{config.path} is a store: train.sequential and train.generative_rec read one, this reads tables"
        )
    problems = Problems(config.strict, config.encoding, config.day_first)
    named = {what: getattr(config, what) for what in ("user", "item", "rating", "time")}
    raw = read_layout(path, config.layout, config.file, problems, named)
    bounded = config.min_rating is not None or config.max_rating is not None
    _say_odd(raw.events, bounded, problems)
    if config.items is not None:
        there = Path(config.items).expanduser()
        columns = {"item": config.items_id, "title": config.items_title, "same": config.item}
        facts = read_items(there, problems, columns)
        raw.items |= join_items(facts, raw.events.items, there, problems)
    stays = _stays(raw, config)
    if not len(stays):
        lost = f": {problems.reasons_line()}" if problems.count else ""
        raise DataError(f"{path}: no event is left of {len(raw.events) + problems.count:,}{lost}")
    found = _numbered(path.resolve().name, raw, stays, config.whole_catalogue, problems)
    logger.info(found.summary())
    return found


def _say_odd(events: Interactions, bounded: bool, problems: Problems) -> None:
    """Notes of what is read as it stands though it may mean something else."""
    if events.time_T is not None and len(events) and events.time_T.max() < DATED:
        span = f"from {events.time_T.min()} to {events.time_T.max()}"
        problems.say(f"times {span} are no dates: they give the order of the events alone")
    if events.rating_T is not None and not bounded:
        values = np.unique(events.rating_T)
        for apart, others in (values[:1], values[1:]), (values[-1:], values[:-1]):
            if len(others) > 1 and _stands_apart(float(apart[0]), others):
                problems.say(
                    f"ratings of {apart[0]:g} stand apart from {others[0]:g}..{others[-1]:g}: if they mean that "
                    "nobody rated, leave them out (data.min_rating, data.max_rating)"
                )
    for names, what in (events.users, "people"), (events.items, "items"):
        if count := alike(names):
            problems.say(
                f"{count:,} {what} differ from another one in Unicode form alone: kept apart"
            )


def _stands_apart(value: float, others: np.ndarray) -> bool:
    """-1 among ratings from 0, or a number farther off than three times the width of all others (Jester's 99)."""
    low, high = float(others[0]), float(others[-1])
    gap = max(low - value, value - high)
    return (value == -1 and low >= 0) or gap > 3 * (high - low)


def _day(time: np.int64) -> str:
    return str(np.datetime64(int(time), "s").astype("datetime64[D]"))


def _stays(raw: RawSet, config: DataConfig) -> np.ndarray:
    """Which events stand: first by rating, then duplicates, then the k-core."""
    rows = np.arange(len(raw.events))
    low, high = config.min_rating, config.max_rating
    if low is not None or high is not None:
        if raw.events.rating_T is None:
            bound = "min_rating" if low is not None else "max_rating"
            raise DataError(f"data.{bound}: this set has no ratings ({raw.layout})")
        within_T = raw.events.rating_T >= (-np.inf if low is None else low)
        rows = rows[within_T & (raw.events.rating_T <= (np.inf if high is None else high))]
    rows = rows[without_duplicates(raw.events.take(rows), config.duplicates)]
    rows = rows[core(raw.events.take(rows), config.min_user, config.min_item)]
    if len(rows) < len(raw.events) and raw.published is not None:
        raise DataError(
            "a set with a split of its own is read whole: leave out min_user, min_item and duplicates"
        )
    return rows


def _numbered(
    name: str, raw: RawSet, stays: np.ndarray, whole_catalogue: bool, problems: Problems
) -> InteractionSet:
    if raw.published is not None:  # its numbers are those of the reader, and stand
        events = raw.events
        users, items = np.arange(events.n_users), np.arange(events.n_items)
    else:
        events = raw.events.take(stays)
        held = list(raw.held_out.values())
        used = lambda field: np.unique(np.concatenate([getattr(e, field) for e in [events, *held]]))
        users, items = used("user_T"), used("item_T")
        users = users[in_order(tuple(events.users[u] for u in users))]
        items = items[in_order(tuple(events.items[i] for i in items))]
        events = compact(events, users, items)
    if whole_catalogue:
        known = set(events.items)
        more = [key for key in raw.items if key not in known]
        events = dataclasses.replace(events, items=(*events.items, *more))
    pick = lambda texts: tuple(texts[t] for t in stays)
    reviews = None
    if raw.review or raw.summary:
        blank = [""] * len(raw.events)
        reviews = Reviews(pick(raw.review or blank), pick(raw.summary or blank))
    shops = tuple(sorted(set(raw.shop.values())))
    return InteractionSet(
        name=name,
        layout=raw.layout,
        interactions=events,
        items=_items([raw.items.get(key, Item()) for key in events.items]),
        people=_people([raw.people.get(key, {}) for key in events.users]),
        problems=problems,
        reviews=reviews,
        published=raw.published,
        held_out={part: compact(held, users, items) for part, held in raw.held_out.items()},
        shops=shops,
        shop_I=np.array([shops.index(raw.shop[key]) for key in events.items]) if shops else None,
    )


def _items(rows: list[Item]) -> Items:
    columns = {
        field.name: tuple(getattr(row, field.name) for row in rows)
        for field in dataclasses.fields(Items)
    }
    return Items(**{key: column if any(column) else None for key, column in columns.items()})


def _people(rows: list[dict[str, str]]) -> dict[str, tuple[str, ...]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: tuple(row.get(name, "") for row in rows) for name in names}


# ------------------------------------------------------------------------------------- which events stand


def without_duplicates(events: Interactions, keep: str) -> Int[np.ndarray, " T"]:
    """Rows such that no person has an item twice: the oldest or the newest event of each pair stands.

    By time where there are times, events of the same second in the order of the file. "all" keeps every row.
    Raises ValueError for another word.
    """
    if keep == "all":
        return np.arange(len(events))
    if keep not in ("first", "last"):
        raise ValueError(f"duplicates: all, first or last, not {keep!r}")
    order = (
        np.arange(len(events))
        if events.time_T is None
        else np.argsort(events.time_T, kind="stable")
    )
    if keep == "last":
        order = order[::-1]
    pair_T = events.user_T * max(events.n_items, 1) + events.item_T
    _, first = np.unique(pair_T[order], return_index=True)
    return np.sort(order[first])


def core(events: Interactions, min_user: int, min_item: int) -> Bool[np.ndarray, " T"]:
    """The k-core: every person left has `min_user` events, every item `min_item`; taken away until stable."""
    stays_T = np.ones(len(events), bool)
    while True:
        user_T, item_T = events.user_T[stays_T], events.item_T[stays_T]
        good = np.bincount(user_T, minlength=events.n_users)[user_T] >= min_user
        good &= np.bincount(item_T, minlength=events.n_items)[item_T] >= min_item
        if good.all():
            return stays_T
        stays_T[np.flatnonzero(stays_T)[~good]] = False


def in_order(names: tuple[str, ...]) -> Int[np.ndarray, " W"]:
    """The order of names in which they are numbered: by value where all are whole numbers, else as they stand."""
    if names and all(name.isdecimal() for name in names):
        return np.argsort(np.array([int(name) for name in names], object), kind="stable")
    return np.arange(len(names))


def compact(
    events: Interactions,
    users: Int[np.ndarray, " U"],
    items: Int[np.ndarray, " I"],
) -> Interactions:
    """The same events with new numbers: `users[n]` and `items[n]` are the old numbers of what becomes number n."""
    new_user = np.full(events.n_users, -1)
    new_user[users] = np.arange(len(users))
    new_item = np.full(events.n_items, -1)
    new_item[items] = np.arange(len(items))
    return Interactions(
        user_T=new_user[events.user_T],
        item_T=new_item[events.item_T],
        users=tuple(events.users[u] for u in users),
        items=tuple(events.items[i] for i in items),
        rating_T=events.rating_T,
        time_T=events.time_T,
    )

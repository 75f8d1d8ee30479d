"""A data set of interactions, whatever layout it was published in: one config, one `read`.

    read(DataConfig("amazon14-beauty"))                       a folder under JAXREC_DATA
    read(DataConfig(path=Path("ratings.dat"), min_item=5))    any file or folder

People and items are numbered by the value of their published names where these are whole numbers, and otherwise in the
order in which the file names them; `Interactions.users` and `.items` keep the names. Events stay in the order of the
file; `histories.histories` orders each person's by time (ties: the order of the file).
"""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxrec.data.filters import Duplicates, compact, core, in_order, without_duplicates
from jaxrec.data.folder import dataset
from jaxrec.data.histories import Interactions, Split
from jaxrec.data.readers.layouts import read_layout
from jaxrec.data.readers.raw import DataError, Item, Problems, RawSet

if TYPE_CHECKING:
    import pyarrow

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which data set, and which of its events stand."""

    name: str = ""  # a folder under JAXREC_DATA
    path: Path | None = None  # or any file or folder
    layout: str = "auto"  # or: recbole movielens amazon-json table sequences pairs cdrib minionerec
    file: str = ""  # of a folder with several sets of events: which file
    min_user: int = 0  # k-core, after all else: events a person must have
    min_item: int = 0  # and events an item must have
    min_rating: float | None = None  # events rated lower are dropped
    duplicates: Duplicates = "all"  # of one person's events with one item: all, the first, the last
    whole_catalogue: bool = False  # items without events are numbered too, after the others
    strict: bool = False  # stop at the first malformed row
    user: str = ""  # columns of a table by name (or by position from 0, where it has no header),
    item: str = ""  # needed only where looking does not tell
    rating: str = ""
    time: str = ""


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
        """Counts in a line, then what was malformed."""
        events = self.interactions
        line = f"{self.name}: {len(events):,} events of {events.n_users:,} people with {events.n_items:,} items"
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
    if bool(config.name) == (config.path is not None):
        raise DataError("a data set is told by data.name or by data.path, one of the two")
    path = dataset(config.name) if config.path is None else Path(config.path).expanduser()
    problems = Problems(config.strict)
    named = {what: getattr(config, what) for what in ("user", "item", "rating", "time")}
    raw = read_layout(path, config.layout, config.file, problems, named)
    stays = _stays(raw, config)
    if not len(stays):
        lost = f"; {problems.summary()}" if problems.count else ""
        raise DataError(f"{path}: no event is left of {len(raw.events):,}{lost}")
    found = _numbered(config.name or path.name, raw, stays, config.whole_catalogue, problems)
    logger.info(found.summary())
    return found


def _stays(raw: RawSet, config: DataConfig) -> np.ndarray:
    """Which events stand: first by rating, then duplicates, then the k-core."""
    rows = np.arange(len(raw.events))
    if config.min_rating is not None:
        if raw.events.rating_T is None:
            raise DataError(f"data.min_rating: this set has no ratings ({raw.layout})")
        rows = rows[raw.events.rating_T >= config.min_rating]
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

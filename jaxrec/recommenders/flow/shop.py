"""Floor 4: what a flow knows of a shop: its people and items by name, who took what, what is told of the items."""

import dataclasses
import difflib
import itertools
from collections import Counter
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from jaxrec.data.histories import Histories
from jaxrec.data.interaction_sets import Items

NAMES_COMPARED = 200_000  # more names are not searched for one that was mistyped


@dataclasses.dataclass(frozen=True)
class Shop:
    """Person u is row u of `histories`, called `users[u]`; item i is called `ids[i]`. popular_I: counts that fade."""

    name: str
    users: tuple[str, ...]
    ids: tuple[str, ...]
    items: Items
    histories: Histories
    popular_I: np.ndarray

    @cached_property
    def people(self) -> dict[str, int]:
        """The row of each person."""
        return {name: row for row, name in enumerate(self.users)}

    @cached_property
    def number(self) -> dict[str, int]:
        """The number of each item."""
        return {name: item for item, name in enumerate(self.ids)}

    @cached_property
    def titles(self) -> tuple[str, ...]:
        """What each item is called: its title, or where there is none its id."""
        titles = self.items.title or ("",) * len(self.ids)
        return tuple(title or name for title, name in zip(titles, self.ids, strict=True))

    @cached_property
    def taken_I(self) -> Int[np.ndarray, " I"]:
        """How many events each item has."""
        return np.bincount(self.histories.item_T, minlength=len(self.ids))

    @cached_property
    def share_of(self) -> dict[str, float]:
        """Which share of the items each category and each brand has."""
        count: Counter[str] = Counter(self.items.brand or ())
        for kinds in self.items.category or ():
            count.update(set(kinds))
        return {name: n / len(self.ids) for name, n in count.items()}

    @cached_property
    def rating_I(self) -> Float[np.ndarray, " I"]:
        """The mean rating of each item; NaN where nobody rated it."""
        return mean_ratings(self.histories)

    def nearest(self, user: str, many: int = 3) -> list[str]:
        """The names of people that look most like one that is not known."""
        if not user or len(self.users) > NAMES_COMPARED:
            return []
        lower = {name.casefold(): name for name in self.users}
        mine = user.casefold()
        if mine in lower:
            return [lower[mine]]
        close = difflib.get_close_matches(mine, lower, n=50, cutoff=0.75)
        # among equally close ones those that begin alike: people mistype an end sooner than a beginning
        close.sort(key=lambda name: (-_ratio(mine, name), -_beginning(mine, name), name))
        return [lower[name] for name in close[:many]]


def _ratio(name: str, other: str) -> float:
    return difflib.SequenceMatcher(None, name, other).ratio()


def _beginning(name: str, other: str) -> int:
    """How many letters they begin with together."""
    same = (a == b for a, b in zip(name, other, strict=False))
    return sum(1 for _ in itertools.takewhile(bool, same))


def mean_ratings(rows: Histories) -> Float[np.ndarray, " I"]:
    """The mean rating of each item over all rows; NaN where nobody rated it."""
    if rows.rating_T is None:
        return np.full(rows.n_items, np.nan)
    count = np.bincount(rows.item_T, minlength=rows.n_items)
    total = np.bincount(rows.item_T, weights=rows.rating_T, minlength=rows.n_items)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)

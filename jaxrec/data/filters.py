"""Which events stand: low ratings, repeated events, people and items with too few; then numbers without gaps.

Each function gives the rows that stay, in the order of the file; `compact` then renumbers.
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from jaxrec.data.histories import Interactions

Duplicates = Literal["all", "first", "last"]


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

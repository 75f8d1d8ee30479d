"""Ways to hold events out, beside leave-one-out (`histories.leave_one_out`).

Each part of a split keeps the numbers of people and items of the whole, and its events the order of the file.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from jaxrec.data.histories import Histories, Holdout, Interactions, Split, histories


def ratio_split(
    events: Interactions, share: float, seed: int = 0
) -> tuple[Interactions, Interactions]:
    """A random `share` of all events as the second part, the rest as the first. Raises ValueError outside 0..1."""
    if not 0 < share < 1:
        raise ValueError(f"the share held out lies between 0 and 1, it is not {share}")
    held_T = np.zeros(len(events), bool)
    order = np.random.default_rng(seed).permutation(len(events))
    held_T[order[: round(share * len(events))]] = True
    return events.take(~held_T), events.take(held_T)


def folds(
    events: Interactions, count: int = 5, seed: int = 0
) -> list[tuple[Interactions, Interactions]]:
    """`count` random parts of all events, each held out once: (train, test) by fold. Raises ValueError below 2."""
    order = np.random.default_rng(seed).permutation(len(events))
    return _folds(events, order, count)


def block_folds(events: Interactions, count: int = 5) -> list[tuple[Interactions, Interactions]]:
    """Blocks of the file's order, each held out once. ML-100K's u1 .. u5 are those of `u.data` (count 5)."""
    return _folds(events, np.arange(len(events)), count)


def _folds(
    events: Interactions, order: np.ndarray, count: int
) -> list[tuple[Interactions, Interactions]]:
    if not 2 <= count <= len(events):
        raise ValueError(f"{len(events)} events cannot be cut into {count} folds")
    found = []
    for part in np.array_split(order, count):
        held_T = np.zeros(len(events), bool)
        held_T[part] = True
        found.append((events.take(~held_T), events.take(held_T)))
    return found


def by_time(events: Interactions, shares: Sequence[float] = (8.0, 1.0, 1.0)) -> list[Interactions]:
    """Parts by points in time that are everybody's: the oldest 8/10 of all events, the next 1/10, the newest.

    Events of the same second stay together, in the earlier part. Raises ValueError without times.
    """
    if events.time_T is None:
        raise ValueError("these events have no times to split by")
    order = np.argsort(events.time_T, kind="stable")
    ends = np.round(np.cumsum(shares) / np.sum(shares) * len(events)).astype(int)
    last = events.time_T[order[np.maximum(ends - 1, 0)]]
    part_T = np.searchsorted(last[:-1], events.time_T, side="left")
    return [events.take(part_T == part) for part in range(len(shares))]


def time_split(events: Interactions, shares: Sequence[float] = (8.0, 1.0, 1.0)) -> Split:
    """`by_time` as a `Split`: learned from is the oldest part, asked is every event of the later ones.

    An asked event's history is all that its person did before it, earlier asked events too.
    """
    if len(shares) != 3:
        raise ValueError(f"train, valid and test are three shares, not {len(shares)}")
    parts = by_time(events, shares)
    whole = histories(events)
    # The newest part begins after the newest event of the part before it: `by_time` never cuts within a second.
    ends = [part.time_T.max() if len(part) else -1 for part in parts[:2]]
    later = lambda after, until: np.flatnonzero((whole.time_T > after) & (whole.time_T <= until))
    return Split(
        train=histories(parts[0]),
        valid=next_events(whole, later(ends[0], max(ends))),
        test=next_events(whole, later(max(ends), np.iinfo(np.int64).max)),
    )


def next_events(whole: Histories, asked: Int[np.ndarray, " B"]) -> Holdout:
    """The events at places `asked` of `whole.item_T`, each with what its row holds before it."""
    row_B = whole.row_T[asked]
    length_B = asked - whole.start_B[row_B]
    people = whole.take(row_B)
    return Holdout(people._keep(length_B, from_end=False), whole.item_T[asked])


@dataclasses.dataclass(frozen=True)
class ShopEvents:
    """One of several shops over one user base: its events with its own item numbers, and what they are called outside.

    `item_I[n]` is the number of the shop's item n in the whole set; people keep theirs.
    """

    name: str
    interactions: Interactions
    item_I: np.ndarray


def by_shop(
    events: Interactions, shops: Sequence[str], shop_I: Int[np.ndarray, " I"]
) -> list[ShopEvents]:
    """The events of each shop by themselves. `shop_I[i]` is the shop, an index into `shops`, of item i."""
    found = []
    for number, name in enumerate(shops):
        own = np.flatnonzero(shop_I == number)
        inside = np.full(events.n_items, -1)
        inside[own] = np.arange(len(own))
        there = events.take(shop_I[events.item_T] == number)
        there = dataclasses.replace(
            there, item_T=inside[there.item_T], items=tuple(events.items[i] for i in own)
        )
        found.append(ShopEvents(name, there, own))
    return found

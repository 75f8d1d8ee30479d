"""Splits and filters: nothing lost, nothing twice, nobody's future in their past."""

import numpy as np
import pytest

from jaxrec.data.histories import Interactions, histories
from jaxrec.data.interaction_sets import compact, core, in_order, without_duplicates
from jaxrec.data.splits import block_folds, by_shop, by_time, folds, ratio_split, time_split


def made(n=300, users=20, items=15, seed=0, times=True):
    rng = np.random.default_rng(seed)
    return Interactions(
        user_T=rng.integers(0, users, n),
        item_T=rng.integers(0, items, n),
        users=tuple(f"u{u}" for u in range(users)),
        items=tuple(f"i{i}" for i in range(items)),
        rating_T=np.arange(n, dtype=np.float32),  # a mark to know each event by
        time_T=rng.integers(0, 100, n) if times else None,
    )


def marks(*parts):
    return np.sort(np.concatenate([part.rating_T for part in parts]))


def test_ratio_split_and_folds_part_the_events():
    events = made()
    train, test = ratio_split(events, 0.2, seed=3)
    assert len(test) == 60 and np.array_equal(marks(train, test), events.rating_T)
    assert np.array_equal(test.rating_T, np.sort(test.rating_T))  # the order of the file
    again = ratio_split(events, 0.2, seed=3)[1]
    other = ratio_split(events, 0.2, seed=4)[1]
    assert np.array_equal(test.rating_T, again.rating_T)
    assert not np.array_equal(test.rating_T, other.rating_T)
    for made_folds in (folds(events, 5), block_folds(events, 5)):
        assert np.array_equal(marks(*(test for _, test in made_folds)), events.rating_T)
        assert all(np.array_equal(marks(a, b), events.rating_T) for a, b in made_folds)
    assert np.array_equal(block_folds(events, 5)[1][1].rating_T, np.arange(60, 120))


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 2.0])
def test_ratio_split_refuses_shares(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        ratio_split(made(), share)


def test_folds_refuse_counts():
    with pytest.raises(ValueError, match="1 folds"):
        folds(made(), 1)


def test_by_time_cuts_at_the_same_moments_for_everybody():
    events = made()
    old, mid, new = by_time(events)
    assert np.array_equal(marks(old, mid, new), events.rating_T)
    assert old.time_T.max() < mid.time_T.min() and mid.time_T.max() < new.time_T.min()
    assert 240 <= len(old) <= 250  # 8/10, and those of the boundary's own second
    with pytest.raises(ValueError, match="no times"):
        by_time(made(times=False))


def test_time_split_asks_every_later_event_with_its_own_past():
    events = made()
    split = time_split(events)
    old, mid, new = by_time(events)
    assert (len(split.valid), len(split.test)) == (len(mid), len(new))
    assert len(split.train.item_T) == len(old)
    whole = histories(events)
    for held in (split.valid, split.test):
        for row in range(len(held)):
            past, person = held.histories[row], int(held.histories.user_B[row])
            assert np.array_equal(whole[person][: len(past)], past)
            assert whole[person][len(past)] == held.target_B[row]


def test_duplicates_keep_first_or_last_by_time():
    events = Interactions(
        user_T=np.array([0, 0, 0, 1, 0]),
        item_T=np.array([2, 2, 1, 2, 2]),
        users=("a", "b"),
        items=("x", "y", "z"),
        time_T=np.array([5, 3, 9, 1, 3]),
    )
    assert without_duplicates(events, "all").tolist() == [0, 1, 2, 3, 4]
    assert without_duplicates(events, "first").tolist() == [1, 2, 3]  # of the two at 3 the first
    # Of person 0 with item 2: events at 5, 3 and 3. The newest is the one at 5.
    assert without_duplicates(events, "last").tolist() == [0, 2, 3]
    with pytest.raises(ValueError, match="newest"):
        without_duplicates(events, "newest")


def test_core_is_stable_and_largest():
    events = made(n=110, users=30, items=20)
    stays = core(events, 3, 4)
    left = events.take(stays)
    users, items = np.bincount(left.user_T), np.bincount(left.item_T)
    assert users[users > 0].min() >= 3 and items[items > 0].min() >= 4
    assert core(left, 3, 4).all() and 0 < stays.sum() < len(events)
    # Largest: no event outside can be brought back together with others (peeling one by one in another order).
    alive = np.ones(len(events), bool)
    changed = True
    while changed:
        changed = False
        for row in np.flatnonzero(alive)[::-1]:
            few_user = (events.user_T[alive] == events.user_T[row]).sum() < 3
            few_item = (events.item_T[alive] == events.item_T[row]).sum() < 4
            if few_user or few_item:
                alive[row], changed = False, True
    assert np.array_equal(alive, stays)


def test_compact_keeps_names():
    events = made(n=40)
    part = events.take(events.item_T % 2 == 0)
    small = compact(part, np.unique(part.user_T), np.unique(part.item_T))
    assert [small.items[i] for i in small.item_T] == [events.items[i] for i in part.item_T]
    assert [small.users[u] for u in small.user_T] == [events.users[u] for u in part.user_T]
    assert small.n_items == len(np.unique(part.item_T))


def test_whole_numbers_are_ordered_by_value():
    assert in_order(("10", "9", "100")).tolist() == [1, 0, 2]
    assert in_order(("10", "b", "1")).tolist() == [0, 1, 2]


def test_shops_share_people_and_number_their_own_items():
    events = made()
    shop_I = np.arange(15) % 2
    odd = by_shop(events, ("even", "odd"), shop_I)[1]
    assert odd.interactions.users == events.users
    assert odd.interactions.items == tuple(f"i{i}" for i in range(1, 15, 2))
    kept = events.take(shop_I[events.item_T] == 1)
    assert np.array_equal(odd.item_I[odd.interactions.item_T], kept.item_T)

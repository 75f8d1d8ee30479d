"""Packed histories: everybody is in them once, next to nothing is padding, and negatives are never one's own."""

import dataclasses
import itertools

import numpy as np
import pytest

from jaxrec.data.histories import Histories, from_lists
from jaxrec.data.history_rows import DrawnItems, Negatives, best_fit, pack, pack_whole
from jaxrec.data.source import ArraySource, Prefetch

ITEMS = 50


def people(count: int = 40, longest: int = 12, seed: int = 0) -> Histories:
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(ITEMS)[: rng.integers(longest + 1)].tolist() for _ in range(count)]
    return from_lists(rows, ITEMS)


def pairs_of(rows, user: int) -> list[tuple[int, int]]:
    """(item, target) of one person in the order of positions, whatever the rows."""
    here = (rows.who_BL == user) & (rows.segments_BL > 0)
    order = np.argsort(rows.positions_BL[here], kind="stable")
    return list(zip(rows.items_BL[here][order], rows.targets_BL[here][order], strict=True))


def test_everybody_lies_in_one_segment_with_all_of_their_pairs():
    whole = people()
    rows = pack(whole, 16, 12)
    for user, items in enumerate(whole):
        assert pairs_of(rows, user) == list(itertools.pairwise(items))
    real = rows.segments_BL > 0
    assert (real == (rows.items_BL >= 0)).all() and (real == (rows.targets_BL >= 0)).all()
    named = [
        (b, segment, user)
        for b, row in enumerate(rows.segments_BL)
        for segment, user in {*zip(row, rows.who_BL[b], strict=True)}
        if segment
    ]
    assert len({(b, segment) for b, segment, _ in named}) == len(named)  # one person a segment
    assert len({user for *_, user in named}) == len(named)  # one segment a person


def test_positions_count_to_the_end_or_from_the_start():
    whole = from_lists([[1, 2, 3, 4], [5, 6]], ITEMS)
    ends, starts = pack(whole, 8, 6), pack(whole, 8, 6, count="start")
    place = lambda rows, user: sorted(rows.positions_BL[rows.who_BL == user].tolist())
    assert place(ends, 0) == [3, 4, 5] and place(ends, 1) == [5]
    assert place(starts, 0) == [0, 1, 2] and place(starts, 1) == [0]


def test_long_histories_keep_their_newest_or_are_cut_into_windows():
    whole = from_lists([list(range(11))], ITEMS)
    newest, windows = pack(whole, 4, 4), pack(whole, 4, 4, windows=True)
    assert pairs_of(newest, 0) == [(6, 7), (7, 8), (8, 9), (9, 10)]
    assert sorted(windows.targets_BL[windows.targets_BL >= 0].tolist()) == list(range(1, 11))
    assert sorted((windows.targets_BL >= 0).sum(1).tolist()) == [2, 4, 4]  # the oldest is short


def test_rows_to_ask_end_at_the_newest_item():
    whole = people()
    rows, last_B = pack_whole(whole, 16, 8)
    for user, items in enumerate(whole):
        if not len(items):
            assert last_B[user] == -1
            continue
        assert rows.items_BL.reshape(-1)[last_B[user]] == items[-1]
        assert rows.positions_BL.reshape(-1)[last_B[user]] == 7
        assert (rows.who_BL == user).sum() == min(len(items), 8)


def test_best_fit_fills_rows_and_overlaps_nobody():
    lengths = np.random.default_rng(0).geometric(0.15, 20_000).clip(1, 50)
    place = best_fit(lengths, 64)
    taken = np.concatenate([np.arange(p, p + n) for p, n in zip(place, lengths, strict=True)])
    assert len(np.unique(taken)) == lengths.sum()
    assert (place // 64 == (place + lengths - 1) // 64).all()
    assert lengths.sum() / (64 * (place.max() // 64 + 1)) > 0.99
    assert (place != best_fit(lengths, 64, seed=1)).any()


def test_times_travel_along():
    whole = dataclasses.replace(from_lists([[1, 2, 3]], ITEMS), time_T=np.array([10, 20, 2**31]))
    assert pack(whole, 4, 4).times_BL[0, :2].tolist() == [10, 20]
    assert pack_whole(whole, 4, 4)[0].times_BL[0, 2] == 2**31


def test_negatives_are_never_of_the_history_and_follow_the_state():
    whole = people(longest=40)
    source = Negatives(ArraySource(pack(whole, 16, 8), 4), whole, count=5)
    state, seen = source.init(), []
    for step in range(20):
        before, (rows, state) = state, source(step, None, state)
        again, _ = source(step, None, before)
        np.testing.assert_array_equal(rows.negatives_BLJ, again.negatives_BLJ)
        for b, slot in zip(*np.nonzero(rows.targets_BL >= 0), strict=True):
            assert not set(rows.negatives_BLJ[b, slot]) & set(whole[int(rows.who_BL[b, slot])])
        seen.append(rows.negatives_BLJ)
    assert len(np.unique(seen)) == ITEMS  # every item is drawn for somebody
    ahead = Prefetch(source)
    np.testing.assert_array_equal(ahead(0, None, ahead.init())[0].negatives_BLJ, seen[0])


@pytest.mark.parametrize("popularity", [0.0, 0.75])
def test_drawn_items_come_as_often_as_they_say(popularity):
    whole = people(count=200)
    source = DrawnItems(ArraySource(pack(whole, 16, 12), 4), whole, 2000, popularity)
    rows, _ = source(0, None, source.init())
    assert rows.negatives_BLJ.shape == (4, 1, 2000)
    share = np.bincount(rows.negatives_BLJ.reshape(-1), minlength=ITEMS) / 8000
    expected = np.exp(source.log_q_I)
    assert abs(expected.sum() - 1) < 1e-5
    assert (np.abs(share - expected) < 5 * np.sqrt(expected / 8000)).all()


def test_what_cannot_be_packed_is_said():
    with pytest.raises(ValueError, match="two events"):
        pack(from_lists([[1], []], ITEMS), 8, 8)
    with pytest.raises(ValueError, match="do not fit into rows of 8"):
        pack(people(), 8, 9)
    rows, last_B = pack_whole(from_lists([[], []], ITEMS), 8, 8)
    assert last_B.tolist() == [-1, -1] and rows.items_BL.shape == (0, 8)

"""Histories: order and ties, rows of different length, leave-one-out."""

import numpy as np
import pytest

from jaxrec.data.histories import Interactions, from_lists, histories, leave_one_out


def events(user, item, time=None):
    return Interactions(
        user_T=np.array(user),
        item_T=np.array(item),
        users=tuple("abc"),
        items=tuple("vwxyz"),
        time_T=None if time is None else np.array(time),
    )


def lists(rows):
    return [row.tolist() for row in rows]


def test_ordered_by_time_and_ties_by_the_file():
    whole = histories(events([1, 0, 1, 1], [0, 1, 2, 3], [5, 9, 5, 1]))
    assert lists(whole) == [[1], [3, 0, 2], []]
    assert lists(histories(events([1, 0, 1], [4, 1, 2]))) == [[1], [4, 2], []]


def test_rows_can_be_taken_cut_and_padded():
    rows = from_lists([[0, 1, 2], [], [3, 4]], 5)
    assert lists(rows.take(np.array([2, 0]))) == [[3, 4], [0, 1, 2]]
    assert rows.take(np.array([2, 0])).user_B.tolist() == [2, 0]
    assert lists(rows.without_last()) == [[0, 1], [], [3]]
    assert lists(rows.newest(2)) == [[1, 2], [], [3, 4]]
    assert rows.padded(2).tolist() == [[1, 2], [-1, -1], [3, 4]]
    assert rows.padded(4).tolist() == [[-1, 0, 1, 2], [-1] * 4, [-1, -1, 3, 4]]


def test_leave_one_out_asks_only_who_has_three_events():
    split = leave_one_out(from_lists([[0, 1, 2, 3], [4, 0], [1, 2, 3]], 5))
    assert lists(split.train) == [[0, 1], [4, 0], [1]]
    assert lists(split.valid.histories) == [[0, 1], [1]]
    assert split.valid.target_B.tolist() == [2, 2]
    assert lists(split.test.histories) == [[0, 1, 2], [1, 2]]
    assert split.test.target_B.tolist() == [3, 3]
    assert split.test.histories.user_B.tolist() == [0, 2]


def test_an_index_beyond_the_rows_is_an_error():
    with pytest.raises(IndexError):
        from_lists([[0]], 1).take(np.array([1]))

"""Ranks and what is made of them, against numbers worked out by hand."""

import numpy as np
import pytest

from jaxrec import ranking
from jaxrec.data.histories import from_lists

SCORES = np.array([[0.1, 0.9, 0.5, 0.5], [1.0, 1.0, 1.0, 1.0]])


def test_rank_counts_what_stands_before_and_what_is_equal():
    assert ranking.ranks(SCORES, np.array([2, 0])).tolist() == [3, 4]
    assert ranking.ranks(SCORES, np.array([1, 3])).tolist() == [1, 4]


def test_scores_that_are_not_numbers_earn_nothing():
    scores = np.array([[0.1, np.nan, 0.5], [np.nan, np.nan, np.nan]])
    assert ranking.ranks(scores, np.array([1, 0])).tolist() == [3, 3]
    assert ranking.ranks(scores, np.array([0, 2])).tolist() == [3, 3]


def test_seen_items_do_not_stand_in_the_way_but_the_target_counts_itself():
    seen = ranking.seen_items(from_lists([[1], [0, 1, 2]], 4))
    assert ranking.ranks(SCORES, np.array([2, 3]), seen).tolist() == [2, 1]
    # A target that is masked itself is missed, whatever its score.
    assert ranking.ranks(SCORES, np.array([1, 0]), seen).tolist() == [5, 5]


def test_repeats_and_their_echo():
    rows = from_lists([[2, 1, 2], [0], [3, 1]], 4)
    target = np.array([2, 1, 3])
    assert ranking.repeats(rows, target).tolist() == [True, False, True]
    # The latest first; what the history lacks comes last, behind every other item that it lacks.
    assert ranking.ranks(ranking.echo(rows), target).tolist() == [1, 4, 2]
    assert ranking.ranks(ranking.echo(rows), target, ranking.seen_items(rows)).tolist() == [5, 3, 5]


def test_measures():
    found = ranking.measures(np.array([1, 3, 11]))
    assert found["R@10"] == pytest.approx(2 / 3)
    assert found["N@10"] == pytest.approx((1 + 0.5) / 3)
    assert ranking.ranks_in_lists(np.array([[4, 2], [4, 2]]), np.array([2, 9])).tolist() == [2, 3]
    with pytest.raises(ValueError, match="no rows"):
        ranking.measures(np.array([], int))


def test_list_measures():
    train = from_lists([[0, 1], [0]], 4)
    vectors = np.array([[1.0, 0], [0, 1], [1, 0], [1, 1]])
    found = ranking.list_measures(np.array([[0, 1], [0, 2], [1, -1]]), train, vectors)
    assert found["coverage"] == 3 / 4
    assert found["novelty"] == pytest.approx((0 + 1 + 0 + 1 + 1) / 5)
    assert found["diversity"] == pytest.approx((1 + 0) / 2)

"""Metrics of predictions: identities, and intervals that resample people."""

import math

import numpy as np
import pytest

from jaxrec import metrics


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 300)
    return p, rng.integers(0, 4, 300), rng.integers(0, 20, 300)


def test_known_values():
    uniform = np.full((6, 3), 1 / 3)
    label = np.array([0, 1, 2, 0, 1, 2])
    assert metrics.nll(uniform, label) == pytest.approx(math.log(3))
    assert metrics.accuracy(uniform, label) == pytest.approx(1 / 3)  # of equal ones the first
    assert metrics.ece(uniform, label) == pytest.approx(0)
    sure = np.tile([1.0, 0.0], (4, 1))
    assert metrics.ece(sure, np.array([0, 0, 0, 1])) == pytest.approx(0.25)
    assert metrics.nll(sure, np.array([1, 0, 0, 0])) == pytest.approx(-math.log(1e-9) / 4)


def test_ece_of_two_bins_by_hand():
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    assert metrics.ece(p, np.array([0, 1, 0, 1])) == pytest.approx((2 * 0.4 + 2 * 0.4) / 4)


def test_sums_by_person_give_the_plain_metrics(rows):
    p, label, person = rows
    scores = metrics.by_person(p, label, person)
    found = metrics.intervals(scores, metrics.resamples(20))
    for name in ("accuracy", "nll", "ece"):
        plain = getattr(metrics, name)(p, label)
        assert found[name].value == pytest.approx(plain)
        assert found[name].lo < found[name].hi
    assert found["accuracy"].lo < found["accuracy"].value < found["accuracy"].hi


def test_resampling_people_equals_copying_their_rows(rows):
    p, label, person = rows
    weight = metrics.resamples(20, draws=3, seed=1)
    assert (weight.sum(1) == 20).all()
    drawn = metrics.by_person(p, label, person).draw(weight)
    for s in range(3):
        at = np.repeat(np.arange(300), weight[s].astype(int)[person])
        for name in ("accuracy", "nll", "ece"):
            assert drawn[name][s] == pytest.approx(getattr(metrics, name)(p[at], label[at]))


def test_people_who_vary_give_wider_intervals_than_rows_would():
    person = np.repeat(np.arange(10), 100)
    label = np.repeat(np.arange(10) % 2, 100)  # a person is wholly right or wholly wrong
    p = np.tile([0.6, 0.4], (1000, 1))
    found = metrics.intervals(metrics.by_person(p, label, person), metrics.resamples(10))[
        "accuracy"
    ]
    assert found.hi - found.lo > 0.4


def test_paired_with_itself_is_zero_and_pairs_cancel_what_is_common(rows):
    p, label, person = rows
    weight = metrics.resamples(20)
    a = metrics.by_person(p, label, person)
    assert all(
        (x.value, x.lo, x.hi) == (0, 0, 0) for x in metrics.paired_difference(a, a, weight).values()
    )
    better = p.copy()
    better[np.arange(300), label] *= 1.2
    better /= better.sum(1, keepdims=True)
    gain = metrics.paired_difference(metrics.by_person(better, label, person), a, weight)
    assert gain["nll"].hi < 0
    alone = metrics.intervals(a, weight)["nll"]
    assert gain["nll"].hi - gain["nll"].lo < (alone.hi - alone.lo) / 2


def test_errors(rows):
    p, label, person = rows
    with pytest.raises(ValueError, match="no rows"):
        metrics.by_person(p[:0], label[:0], person[:0])
    with pytest.raises(ValueError, match="same people"):
        metrics.paired_difference(
            metrics.by_person(p, label, person),
            metrics.by_person(p[1:], label[1:], person[1:]),
            metrics.resamples(20),
        )

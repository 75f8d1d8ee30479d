"""Floor 1: how good predictions are, in plain numpy, with intervals that resample *people*.

Judgements of one person hang together, so the unit of the bootstrap is the person: U people are drawn with replacement
and all their judgements with them (Efron and Tibshirani 1993, chapter 8).
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

BINS = 15


@dataclasses.dataclass(frozen=True)
class Interval:
    """A value and its 95% interval."""

    value: float
    lo: float
    hi: float


def accuracy(p_BW: Float[np.ndarray, "B W"], label_B: Int[np.ndarray, " B"]) -> float:
    """The share of rows whose most probable label is right; of equal ones the first is taken."""
    return float(np.mean(p_BW.argmax(1) == label_B))


def nll(p_BW: Float[np.ndarray, "B W"], label_B: Int[np.ndarray, " B"]) -> float:
    """Mean negative log probability of the true label, in nats; a probability below 1e-9 counts as 1e-9."""
    return float(np.mean(_log_loss(p_BW, label_B)))


def ece(p_BW: Float[np.ndarray, "B W"], label_B: Int[np.ndarray, " B"], bins: int = BINS) -> float:
    """Expected calibration error of the predicted label: |confidence - accuracy| over equal bins (Guo 2017)."""
    return float(_ece(_bin_sums(p_BW, label_B, np.zeros(len(label_B), int), 1, bins))[0])


@dataclasses.dataclass(frozen=True)
class Scores:
    """Sums by person, of which every metric and every resample of people is made."""

    correct_U: np.ndarray
    loss_U: np.ndarray
    rows_U: np.ndarray
    bins_UX3: np.ndarray  # confidence, correct and rows in each bin of confidence

    def draw(self, weight_SU: np.ndarray) -> dict[str, np.ndarray]:
        """The metrics of S resamples; `weight_SU` says how often each person was drawn."""
        rows = weight_SU @ self.rows_U
        bins = np.einsum("su,uxc->sxc", weight_SU, self.bins_UX3)
        return {
            "accuracy": weight_SU @ self.correct_U / rows,
            "nll": weight_SU @ self.loss_U / rows,
            "ece": _ece(bins),
        }


def by_person(
    p_BW: Float[np.ndarray, "B W"],
    label_B: Int[np.ndarray, " B"],
    person_B: Int[np.ndarray, " B"],
    bins: int = BINS,
) -> Scores:
    """Scores of the people who occur, in the order of their numbers. Raises ValueError without any row.

    p_BW: probabilities of the labels. label_B: the true one. person_B: whose row each is. bins: of the calibration
    error.
    """
    if not len(label_B):
        raise ValueError("no rows to score")
    people, at = np.unique(person_B, return_inverse=True)
    add = lambda x: np.bincount(at, weights=x, minlength=len(people))
    return Scores(
        add((p_BW.argmax(1) == label_B).astype(float)),
        add(_log_loss(p_BW, label_B)),
        add(np.ones(len(label_B))),
        _bin_sums(p_BW, label_B, at, len(people), bins),
    )


def resamples(people: int, draws: int = 2000, seed: int = 0) -> np.ndarray:
    """[draws, people]: how often each person is drawn, `people` draws with replacement in each row."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(people, np.full(people, 1 / people), size=draws).astype(float)


def intervals(scores: Scores, weight_SU: np.ndarray) -> dict[str, Interval]:
    """accuracy, nll and ece with 95% percentile intervals over people."""
    point = scores.draw(np.ones((1, len(scores.rows_U))))
    drawn = scores.draw(weight_SU)
    return {name: _interval(float(point[name][0]), drawn[name]) for name in point}


def ratio(
    top_U: Float[np.ndarray, " U"],
    bottom_U: Float[np.ndarray, " U"],
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """sum(top) / sum(bottom) with a 95% percentile interval over U units: a mean where `bottom_U` is 1.

    draws: resamples of the units, one after another, so that many units take no more memory than few.
    top_U, bottom_U: a number for each unit. seed: of the resamples.
    """
    rng, n = np.random.default_rng(seed), len(top_U)
    picks = (np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(draws))
    top_S, bottom_S = np.array([(pick @ top_U, pick @ bottom_U) for pick in picks]).T
    return _interval(float(top_U.sum() / bottom_U.sum()), top_S / bottom_S)


def paired_difference(a: Scores, b: Scores, weight_SU: np.ndarray) -> Mapping[str, Interval]:
    """a minus b on the same people and the same resamples. Raises ValueError where the rows differ."""
    if not np.array_equal(a.rows_U, b.rows_U):
        raise ValueError("paired scores must be of the same people and rows")
    ones = np.ones((1, len(a.rows_U)))
    point_a, point_b, drawn_a, drawn_b = (
        a.draw(ones),
        b.draw(ones),
        a.draw(weight_SU),
        b.draw(weight_SU),
    )
    return {
        name: _interval(float((point_a[name] - point_b[name])[0]), drawn_a[name] - drawn_b[name])
        for name in point_a
    }


def _interval(value: float, drawn_S: np.ndarray) -> Interval:
    lo, hi = np.percentile(drawn_S, (2.5, 97.5))
    return Interval(value, float(lo), float(hi))


def _log_loss(p_BW: np.ndarray, label_B: np.ndarray) -> np.ndarray:
    return -np.log(np.maximum(p_BW[np.arange(len(label_B)), label_B], 1e-9)).astype(float)


def _bin_sums(
    p_BW: np.ndarray, label_B: np.ndarray, person_B: np.ndarray, people: int, bins: int
) -> np.ndarray:
    sure = p_BW.max(1).astype(float)
    at = np.minimum((sure * bins).astype(int), bins - 1)
    sums = np.zeros((people, bins, 3))
    np.add.at(
        sums, (person_B, at), np.stack([sure, p_BW.argmax(1) == label_B, np.ones(len(at))], 1)
    )
    return sums


def _ece(bins_SX3: np.ndarray) -> np.ndarray:
    sure, correct, rows = np.moveaxis(bins_SX3, -1, 0)
    return np.abs(sure - correct).sum(-1) / rows.sum(-1)

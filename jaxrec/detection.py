"""Floor 1: how well scores find what is to be found (yes-or-no labels), in plain numpy, with intervals over groups.

Every measure takes weights of its rows, one set or S of them: a bootstrap over people (or conversations) draws how
often each is there, and the measure is taken of all draws at once. Equal scores are one threshold: no order matters.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from jaxrec.metrics import BINS, Interval

Weights = Float[np.ndarray, "S B"]


@dataclasses.dataclass(frozen=True)
class Detections:
    """Scored rows: probability of "yes", the truth, the threshold that decides, and whose row each is."""

    score_B: np.ndarray
    yes_B: np.ndarray  # bool
    threshold_B: np.ndarray  # a tenant's own, row by row
    group_B: np.ndarray  # integers

    def __post_init__(self) -> None:
        if not len(self.score_B):
            raise ValueError("no rows to score")

    def draw(self, weight_SB: Weights) -> dict[str, np.ndarray]:
        """Every measure of S weightings; NaN where a draw holds no positive (or no negative) row."""
        said_B = self.score_B > self.threshold_B
        return {
            "auprc": average_precision(self.score_B, self.yes_B, weight_SB),
            "f1": f1(said_B, self.yes_B, weight_SB),
            "fpr": false_positive_rate(said_B, self.yes_B, weight_SB),
            "recall": recall(said_B, self.yes_B, weight_SB),
            "ece": calibration_error(self.score_B, self.yes_B, weight_SB),
            "nll": log_loss(self.score_B, self.yes_B, weight_SB),
        }


def average_precision(
    score_B: Float[np.ndarray, " B"], yes_B: np.ndarray, weight_SB: Weights
) -> Float[np.ndarray, " S"]:
    """Area under the precision-recall curve: precision at each threshold, by the recall that it adds."""
    order = np.argsort(-score_B, kind="stable")
    last = np.append(np.diff(score_B[order]) != 0, True)  # of equal scores the last one counts
    weight = weight_SB[:, order]
    hit_SB = np.cumsum(weight * yes_B[order], 1)[:, last]
    all_SB = np.cumsum(weight, 1)[:, last]
    gained = np.diff(hit_SB, axis=1, prepend=0.0)
    area = np.sum(gained * hit_SB / np.maximum(all_SB, 1e-12), 1)
    return _ratio(area, hit_SB[:, -1])


def f1(said_B: np.ndarray, yes_B: np.ndarray, weight_SB: Weights) -> Float[np.ndarray, " S"]:
    """2 TP / (2 TP + FP + FN)."""
    return _ratio(2 * weight_SB @ (said_B & yes_B), weight_SB @ (said_B * 1.0 + yes_B))


def false_positive_rate(
    said_B: np.ndarray, yes_B: np.ndarray, weight_SB: Weights
) -> Float[np.ndarray, " S"]:
    """FP / (FP + TN): how often what is fine is stopped."""
    return _ratio(weight_SB @ (said_B & ~yes_B), weight_SB @ ~yes_B)


def recall(said_B: np.ndarray, yes_B: np.ndarray, weight_SB: Weights) -> Float[np.ndarray, " S"]:
    """TP / (TP + FN)."""
    return _ratio(weight_SB @ (said_B & yes_B), weight_SB @ yes_B)


def calibration_error(
    score_B: Float[np.ndarray, " B"], yes_B: np.ndarray, weight_SB: Weights, bins: int = BINS
) -> Float[np.ndarray, " S"]:
    """|mean probability - share of "yes"| over equal bins of the probability, weighted by rows (Guo 2017).

    score_B: probabilities of "yes". yes_B: the truth. weight_SB: of the rows in each of S draws.
    """
    at_B = np.minimum((score_B * bins).astype(int), bins - 1)
    gap_BX = np.eye(bins)[at_B] * (score_B - yes_B)[:, None]
    return _ratio(np.abs(weight_SB @ gap_BX).sum(1), weight_SB.sum(1))


def log_loss(
    score_B: Float[np.ndarray, " B"], yes_B: np.ndarray, weight_SB: Weights
) -> Float[np.ndarray, " S"]:
    """Mean negative log probability of the truth, nats."""
    p = np.clip(np.where(yes_B, score_B, 1 - score_B), 1e-9, 1.0)
    return _ratio(weight_SB @ -np.log(p), weight_SB.sum(1))


def group_weights(
    group_B: np.ndarray, draws: int, seed: int = 0
) -> tuple[Float[np.ndarray, "one B"], Float[np.ndarray, "draws B"]]:
    """([1, B] ones, [draws, B]: how often each row's group is drawn, groups with replacement)."""
    groups, at = np.unique(group_B, return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=draws)
    return np.ones((1, len(group_B))), drawn[:, at].astype(np.float64)


def intervals(found: Detections, draws: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """Every measure with its 95% percentile interval over groups."""
    ones, drawn = group_weights(found.group_B, draws, seed)
    point, spread = found.draw(ones), found.draw(drawn)
    return {name: _interval(float(point[name][0]), spread[name]) for name in point}


def paired_difference(
    a: Detections, b: Detections, draws: int = 1000, seed: int = 0
) -> Mapping[str, Interval]:
    """a minus b on the same rows and the same draws of groups. Raises ValueError where the rows differ.

    seed: of the draws.
    """
    if not (np.array_equal(a.group_B, b.group_B) and np.array_equal(a.yes_B, b.yes_B)):
        raise ValueError("paired scores must be of the same rows")
    ones, drawn = group_weights(a.group_B, draws, seed)
    point, spread = (a.draw(ones), b.draw(ones)), (a.draw(drawn), b.draw(drawn))
    return {
        name: _interval(
            float((point[0][name] - point[1][name])[0]), spread[0][name] - spread[1][name]
        )
        for name in point[0]
    }


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.where(under > 0, over / np.maximum(under, 1e-12), np.nan)


def _interval(value: float, drawn_S: np.ndarray) -> Interval:
    """Draws without a positive (or negative) row say nothing and are left out."""
    if np.isnan(drawn_S).all():
        return Interval(value, float("nan"), float("nan"))
    lo, hi = np.nanpercentile(drawn_S, (2.5, 97.5))
    return Interval(value, float(lo), float(hi))

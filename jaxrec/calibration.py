"""Floor 1: from logits to probabilities one may act on: temperature, and thresholds for a wanted false-positive rate.

Fitted on validation rows, by label; a tenant with enough rows of its own gets its own numbers, others the shared ones,
and which is which is said (`own`). Plain numpy; the results are plain numbers that JSON can hold.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class Rule:
    """One label's calibration: probability = sigmoid((logit - shift) / temperature), acted on above `threshold`.

    own: fitted to this tenant's rows; otherwise the shared rule. rows: how many rows without the label (negatives)
    the threshold was set on.
    """

    temperature: float
    shift: float
    threshold: float
    own: bool
    rows: int

    def probability(self, logit: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Calibrated probability of the label."""
        return sigmoid((np.asarray(logit, np.float64) - self.shift) / self.temperature)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The rules of all labels: shared ones, and those of tenants who had enough rows."""

    labels: tuple[str, ...]
    shared: tuple[Rule, ...]
    tenants: Mapping[str, tuple[Rule, ...]]

    def of(self, tenant: str) -> tuple[Rule, ...]:
        """A tenant's rules; the shared ones for a tenant who is not known."""
        return self.tenants.get(tenant, self.shared)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> "Calibration":
        """The inverse of `to_json`."""
        rules = lambda rows: tuple(Rule(**row) for row in rows)
        own = {tenant: rules(rows) for tenant, rows in said["tenants"].items()}
        return cls(tuple(said["labels"]), rules(said["shared"]), own)


def calibrate(
    logit_BW: Float[np.ndarray, "B W"],
    target_BW: Float[np.ndarray, "B W"],
    tenant_B: Sequence[str],
    labels: Sequence[str],
    *,
    shift_W: Sequence[float] = (),
    wanted: float = 0.05,
    fewest: int = 30,
) -> Calibration:
    """Temperature and threshold of every label, for all and for each tenant of `fewest` negatives or more.

    target_BW: below 0 unknown. shift_W: what class weights have added to the logits (log of the weight). wanted: the
    highest false-positive rate. A label without both kinds of rows keeps temperature 1 and acts on nothing (threshold
    1). Raises ValueError for shapes that do not agree or logits that are not finite.
    logit_BW: scores of the labels. tenant_B: whose row each is. labels: their names.
    """
    logit, target = np.asarray(logit_BW, np.float64), np.asarray(target_BW, np.float64)
    if logit.shape != target.shape or logit.shape != (len(tenant_B), len(labels)):
        raise ValueError(
            f"logits {logit.shape}, targets {target.shape}, {len(tenant_B)} tenants and {len(labels)} labels"
        )
    if not np.isfinite(logit).all():
        raise ValueError("logits to calibrate on must be finite")
    shift = tuple(shift_W) or (0.0,) * len(labels)
    columns = range(len(labels))
    shared = tuple(_rule(logit[:, w], target[:, w], shift[w], wanted) for w in columns)
    tenants: dict[str, tuple[Rule, ...]] = {}
    names = np.asarray(tenant_B)
    for tenant in dict.fromkeys(tenant_B):
        mine = names == tenant
        rules = tuple(
            _threshold_of(logit[mine, w], target[mine, w], shared[w], wanted, fewest)
            for w in columns
        )
        if any(rule.own for rule in rules):
            tenants[str(tenant)] = rules
    return Calibration(tuple(labels), shared, tenants)


def temperature(logit_B: Float[np.ndarray, " B"], yes_B: np.ndarray) -> float:
    """The T > 0 with the least log loss of sigmoid(logit / T) (Guo 2017), to a thousandth; from 0.05 to 20.

    The loss is convex in 1 / T; it is found by ternary search over log T.
    """
    sign = np.where(yes_B, 1.0, -1.0) * logit_B
    loss = lambda log_t: np.logaddexp(0.0, -sign * np.exp(-log_t)).mean()
    low, high = np.log(0.05), np.log(20.0)
    while high - low > 1e-3:
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return float(np.exp((low + high) / 2))


def threshold(score_B: Float[np.ndarray, " B"], wanted: float) -> float:
    """The least threshold that at most `wanted` of these negatives exceed; their scores are probabilities."""
    above = int(np.floor(wanted * len(score_B)))
    return float(np.sort(score_B)[::-1][above]) if above < len(score_B) else 0.0


def sigmoid(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """1 / (1 + exp(-x)) without overflow."""
    return np.exp(-np.logaddexp(0.0, -x))


def _rule(logit_B: np.ndarray, target_B: np.ndarray, shift: float, wanted: float) -> Rule:
    known = target_B >= 0
    x, yes = logit_B[known] - shift, target_B[known] > 0.5
    if yes.all() or not yes.any():
        return Rule(1.0, shift, 1.0, False, int((~yes).sum()))
    rule = Rule(temperature(x, yes), shift, 1.0, False, int((~yes).sum()))
    limit = threshold(rule.probability(logit_B[known][~yes]), wanted)
    return dataclasses.replace(rule, threshold=limit)


def _threshold_of(
    logit_B: np.ndarray, target_B: np.ndarray, shared: Rule, wanted: float, fewest: int
) -> Rule:
    """A tenant's own threshold at the shared temperature, which needs more rows than one tenant has."""
    fine = (target_B >= 0) & (target_B <= 0.5)
    if fine.sum() < fewest or shared.threshold >= 1.0:
        return shared
    limit = threshold(shared.probability(logit_B[fine]), wanted)
    return dataclasses.replace(shared, threshold=limit, own=True, rows=int(fine.sum()))

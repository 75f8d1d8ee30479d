"""What is done with an answer once the policy head has judged it: pass, micro-edit, escalate, or a safe fallback.

A label that crosses its threshold names its remedy; of several the most cautious one wins. Every decision says why,
with the label, the probability and the threshold, so that it can be logged, shown and argued with. Plain python.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

Action = Literal["pass", "micro_edit", "escalate", "safe_fallback"]
CAUTION: tuple[Action, ...] = ("pass", "micro_edit", "escalate", "safe_fallback")
# What a violation calls for: the voice can be mended in place, a rule is a person's business, what is false or
# abusive must not be said.
REMEDIES: Mapping[str, Action] = {
    "style": "micro_edit",
    "compliance": "escalate",
    "grounding": "safe_fallback",
    "abuse": "safe_fallback",
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One label that crossed its threshold."""

    label: str
    score: float
    threshold: float
    action: Action


@dataclasses.dataclass(frozen=True)
class Decision:
    """What to do, and the findings that led to it, the gravest first. `reason` is one line."""

    action: Action
    findings: tuple[Finding, ...]

    @property
    def reason(self) -> str:
        """The gravest finding in words."""
        if not self.findings:
            return "no label crosses its threshold"
        first = self.findings[0]
        more = f", and {len(self.findings) - 1} more" if len(self.findings) > 1 else ""
        return f"{first.label}: {first.score:.3f} > {first.threshold:.3f}{more}"


def decide(
    scores: Mapping[str, float],
    thresholds: Mapping[str, float],
    remedies: Mapping[str, Action] = REMEDIES,
    *,
    most_edits: int = 1,
) -> Decision:
    """The decision on one answer.

    scores: probability of a violation by label. thresholds: the tenant's, by label. remedies: what each label calls
    for. most_edits: with more findings to edit than this, no micro-edit will do and a person is asked.
    Raises ValueError for a label without threshold or remedy, and for a score that is no probability: an answer that
    could not be judged must not pass.
    """
    findings = []
    for label, score in scores.items():
        if label not in thresholds or label not in remedies:
            missing = "threshold" if label not in thresholds else "remedy"
            raise ValueError(f"label {label!r} has no {missing}")
        if remedies[label] not in CAUTION:
            raise ValueError(f"label {label!r}: {remedies[label]!r} is none of {CAUTION}")
        if not (math.isfinite(score) and 0.0 <= score <= 1.0):
            raise ValueError(f"label {label!r}: {score} is not a probability")
        if score > thresholds[label]:
            findings.append(Finding(label, score, thresholds[label], remedies[label]))
    findings.sort(key=lambda f: (-CAUTION.index(f.action), f.threshold - f.score))
    action: Action = findings[0].action if findings else "pass"
    if action == "micro_edit" and sum(f.action == "micro_edit" for f in findings) > most_edits:
        action = "escalate"
    return Decision(action, tuple(findings))

"""Floor 3: what may be said to the assistant and by it: judged by lists, a policy head, any callable, all together.

    moderator = Moderator(read_rules(), scores=policy_head, thresholds={"abuse": 0.4, ...})
    Talk(refuses=moderator.refuses)                    # what comes in
    moderator.judge(answer).action                     # what goes out: pass, micro_edit, escalate, safe_fallback

Each source gives findings in the form of `dialogue.decision`, the most cautious one wins. A source that fails judges
nothing, so what it should have judged does not pass.
"""

import dataclasses
import functools
import tomllib
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path

from jaxrec.config import RunError
from jaxrec.dialogue.decision import CAUTION, REMEDIES, Action, Decision, Finding, decide
from jaxrec.dialogue.hostile import neutralise
from jaxrec.words import words

Scores = Callable[[str], Mapping[str, float]]  # a text to probabilities of violations by label
Judge = Callable[[str], str]  # a text to what is wrong with it, "" nothing


@dataclasses.dataclass(frozen=True)
class Rule:
    """A kind of talk that is not had. words: beginnings of words, or word-after-word. action: what is done about it."""

    kind: str
    words: tuple[str, ...]
    action: Action


@dataclasses.dataclass(frozen=True)
class Moderator:
    """Judges texts.

    rules: lists of words. scores, thresholds, remedies: a policy head's labels, from which probability each is a
    violation, and what that calls for. judge_by: anything else that says what is wrong. orders: what is done about a
    message that gives the model orders ("ignore the above"); "pass" leaves that to the model.
    """

    rules: Sequence[Rule] = ()
    scores: Scores | None = None
    thresholds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    remedies: Mapping[str, Action] = dataclasses.field(default_factory=lambda: dict(REMEDIES))
    judge_by: Judge | None = None
    orders: Action = "safe_fallback"

    def judge(self, text: str) -> Decision:
        """The decision on a text, with everything that was found, the gravest first."""
        said = words(text)
        found = [
            Finding(f"list:{rule.kind}", 1.0, 0.5, rule.action)
            for rule in self.rules
            if any(_stands(start, said) for start in rule.words)
        ]
        if self.orders != "pass" and neutralise(text, "turn").orders:
            found.append(Finding("order to the model", 1.0, 0.5, self.orders))
        if self.scores is not None:
            try:
                found += decide(self.scores(text), self.thresholds, self.remedies).findings
            except Exception as error:  # whatever a model raises: what was not judged must not pass
                found.append(Finding(f"not judged: {error!r:.80}", 1.0, 0.5, "escalate"))
        if self.judge_by is not None:
            try:
                if wrong := self.judge_by(text):
                    found.append(Finding(wrong, 1.0, 0.5, "safe_fallback"))
            except Exception as error:
                found.append(Finding(f"not judged: {error!r:.80}", 1.0, 0.5, "escalate"))
        found.sort(key=lambda one: -CAUTION.index(one.action))
        return Decision(found[0].action if found else "pass", tuple(found))

    def refuses(self, text: str) -> str:
        """Why a message is not taken, "" where it is; a micro-edit is no reason to refuse one."""
        decision = self.judge(text)
        refused = decision.action in ("safe_fallback", "escalate")
        return f"{decision.action}: {decision.reason}" if refused else ""


def read_rules(path: str | Path | None = None) -> tuple[Rule, ...]:
    """The lists of a file in the form of `texts/moderation.toml`; None: that one. Raises RunError."""
    if path is None:
        return _own_rules()
    try:
        return _rules(Path(path).read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"the lists of {path} cannot be read: {error}") from None


# ------------------------------------------------------------------------------------------ inside


def _stands(start: str, said: Sequence[str]) -> bool:
    parts = start.split("-")
    places = range(len(said) - len(parts) + 1)
    return any(
        all(said[place + i].startswith(part) for i, part in enumerate(parts[-1:], len(parts) - 1))
        and all(said[place + i] == part for i, part in enumerate(parts[:-1]))
        for place in places
    )


@functools.cache
def _own_rules() -> tuple[Rule, ...]:
    own = resources.files(__package__) / "texts/moderation.toml"
    return _rules(own.read_text("utf-8"), "moderation.toml")


def _rules(text: str, where: str) -> tuple[Rule, ...]:
    try:
        told = tomllib.loads(text)
        rules = [
            Rule(kind, tuple(one["words"].casefold().split()), one["action"])
            for kind, one in told.items()
        ]
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{where} is no file of lists: {error!r}") from None
    for rule in rules:
        if rule.action not in CAUTION or not rule.words:
            raise RunError(
                f"{where}: {rule.kind} needs words, and an action of {', '.join(CAUTION)}"
            )
    return tuple(rules)

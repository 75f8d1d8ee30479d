"""Floor 3: what a generated text is worth: GenRec's reward, a guard against gaming it, and any reward of one's own.

    Reward = Callable[[Sequence[Sample]], Sequence[Score]]

A score names its parts, so that a curve shows what was learned: a text that is merely longer or one that greets the
reader. `score_samples` is how a reward is called: whatever is wrong with its answer is said with the sample's place.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import regex

from jaxrec import config
from jaxrec.config import RunError
from jaxrec.words import lower

PERSONAL = ("your", "you", "based on", "preference")
POSITIVE = ("excellent", "great", "perfect", "love")
GENERIC = ("this product is good", "you might like this")
LENGTH = (15, 60)  # words


class RewardError(RunError, ValueError):
    """A reward that is not known, or that answers with something else than one finite score for each sample."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """A text that a model wrote to a prompt, and for whom. `rating`: 1-5, what that person gave (or will give)."""

    prompt: str
    text: str
    rating: float | int | None = None
    persona: str = ""
    title: str = ""
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Score:
    """`total` is what is learned from. `parts`: what it is made of, by name. `gaming`: signs (0...1) that the reward
    is being played rather than earned, reported beside it."""

    total: float | int
    parts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    gaming: Mapping[str, float] = dataclasses.field(default_factory=dict)


Reward = Callable[[Sequence[Sample]], Sequence[Score]]


# ------------------------------------------------------------------------------------------------ GenRec


@dataclasses.dataclass(frozen=True)
class GenRec:
    """GenRec's reward, as its specification has it (phase 6), in [-1, 1].

        length     +0.3 for 15 to 60 words, else -0.2
        personal   +0.4 where a word addresses the person ("your", "you", "based on", "preference")
        sentiment  +0.2 where the rating is 4 or more and a word is positive
        generic    -0.3 for a stock phrase

    Words are sought as parts of the text, as specified: "young" holds "you". `subtract` times the worst sign of
    gaming is taken off the total; 0, the specification's reward, only reports them.
    """

    subtract: float | int = 0.0

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        """A score for each sample."""
        return [self.score(sample) for sample in samples]

    def score(self, sample: Sample) -> Score:
        """Of one sample."""
        said = sample.text.lower()
        low, high = LENGTH
        happy = sample.rating is not None and sample.rating >= 4
        parts = {
            "length": 0.3 if low <= len(sample.text.split()) <= high else -0.2,
            "personal": 0.4 if _any(PERSONAL, said) else 0.0,
            "sentiment": 0.2 if happy and _any(POSITIVE, said) else 0.0,
            "generic": -0.3 if _any(GENERIC, said) else 0.0,
        }
        signs = gaming(sample)
        total = sum(parts.values()) - self.subtract * max(signs.values())
        return Score(min(max(total, -1.0), 1.0), parts, signs)


def _any(phrases: Iterable[str], said: str) -> bool:
    return any(phrase in said for phrase in phrases)


# ------------------------------------------------------------------------------------------------ gaming


def gaming(sample: Sample) -> dict[str, float]:
    """Signs that a text plays the reward, each 0 (none) to 1.

    repetition: the part of its word pairs that it has said before. copying: the part of its runs of four words
    (of all its words, where there are fewer) that stand in the prompt. stuffing: how far scored phrases pass one in
    four words; at one in two it is 1.
    """
    words, told = _words(sample.text), _words(sample.prompt)
    pairs = _runs(words, 2)
    size = min(4, len(words))
    runs, known = _runs(words, size), set(_runs(told, size))
    hits = sum(len(re.findall(rf"\b{re.escape(p)}", sample.text.lower())) for p in SCORED)
    return {
        "repetition": 1 - len(set(pairs)) / len(pairs) if pairs else 0.0,
        "copying": sum(run in known for run in runs) / len(runs) if runs else 0.0,
        "stuffing": min(1.0, max(0.0, 4 * hits / len(words) - 1)) if words else 0.0,
    }


# "your" is found by "you" already
SCORED = tuple(p for p in (*PERSONAL, *POSITIVE) if p != "your")


def _words(text: str) -> list[str]:
    return regex.findall(r"[\w\p{N}'-]+", lower(text))


def _runs(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + size]) for i in range(len(words) - size + 1)] if size else []


# ------------------------------------------------------------------------------------------ any reward


def score_samples(reward: Reward, samples: Sequence[Sample]) -> list[Score]:
    """The reward's scores of the samples.

    Raises RewardError, naming the sample, where there are not as many scores as samples, one is no `Score`, or one
    of its numbers is not finite.
    """
    given = reward(samples)
    try:
        scores = list(given)
    except TypeError:
        raise RewardError(f"the reward gave {type(given).__name__}, not a list of Score") from None
    if len(scores) != len(samples):
        at = min(len(scores), len(samples))
        near = f"; the first without its own is {_called(samples, at)}" if at < len(samples) else ""
        raise RewardError(f"the reward gave {len(scores)} scores for {len(samples)} samples{near}")
    for i, score in enumerate(scores):
        if not isinstance(score, Score):
            raise RewardError(
                f"the reward gave {type(score).__name__} instead of a Score for {_called(samples, i)}"
            )
        for name, number in {"total": score.total, **score.parts, **score.gaming}.items():
            if not math.isfinite(number):
                raise RewardError(f"the reward's {name} is {number} for {_called(samples, i)}")
    return scores


def numbers(score: Score) -> dict[str, float]:
    """A score as a flat dict for a log: `reward`, `reward/PART`, `gaming/SIGN`."""
    parts = {f"reward/{name}": float(value) for name, value in score.parts.items()}
    signs = {f"gaming/{name}": float(value) for name, value in score.gaming.items()}
    return {"reward": float(score.total), **parts, **signs}


def by_name(name: str) -> Reward:
    """A reward of this project ("genrec"), or one's own as "package.module:callable". Raises RewardError."""
    if name in REWARDS:
        return REWARDS[name]()
    if ":" not in name:
        raise RewardError(
            f"there is no reward {name!r}; there are {', '.join(sorted(REWARDS))}, and package.module:callable"
        )
    try:
        return config.by_path(name)
    except config.ConfigError as error:
        raise RewardError(f"the reward {error}") from error


REWARDS: Mapping[str, Callable[[], Reward]] = {
    "genrec": GenRec,
    "genrec-guarded": lambda: GenRec(subtract=1.0),
}


def _called(samples: Sequence[Sample], i: int) -> str:
    return f"sample {i} ({samples[i].text[:60]!r})"

"""Judges: whoever says which of two answers is better, and how sure he is. RLAIF labels pairs by them.

    Judge = choices in, a preference each out.      A rule, a reward, a language model, a person behind a form.

Plain Python: a language model comes in as the callable `score(prompts, continuations) -> log-probabilities`.
"""

import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import regex

from jaxrec.config import RunError
from jaxrec.files import open_atomically


class AnswerJudgeError(RunError, ValueError):
    """A judge that cannot be asked, or whose answer is none."""


class Choice(NamedTuple):
    """A prompt and two answers to it; `turns` (role, text) where the prompt is a conversation."""

    prompt: str
    first: str
    second: str
    turns: tuple[tuple[str, str], ...] = ()


class Verdict(NamedTuple):
    """`preferred`: 0 the first, 1 the second, None no difference. `confidence`: how sure, 0 to 1. `why`: in words."""

    preferred: int | None
    confidence: float
    why: str = ""


Judge = Callable[[Sequence[Choice]], Sequence[Verdict]]
Score = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
Criterion = Callable[[str, str], float]  # (prompt, answer) -> how well it does, 0 to 1


# ------------------------------------------------------------------------------------------------- by rule


def length_band(low: int, high: int) -> Criterion:
    """1 for an answer of `low` to `high` words; falls with the part that is missing or too much."""

    def score(prompt: str, answer: str) -> float:
        words = len(answer.split())
        if words == 0:
            return 0.0
        return min(1.0, words / low, high / words)

    return score


def phrase_share(*phrases: str) -> Criterion:
    """The part of these phrases that an answer has (whole words, case aside)."""
    return lambda prompt, answer: sum(_has(answer, p) for p in phrases) / len(phrases)


def forbidden(*phrases: str) -> Criterion:
    """1 where an answer has none of these phrases, else 0."""
    return lambda prompt, answer: 0.0 if any(_has(answer, p) for p in phrases) else 1.0


def own_words(most: float = 0.5, size: int = 3) -> Criterion:
    """1 - the part of an answer's word `size`-grams that stand in the prompt, as far as it is above `most`."""

    def score(prompt: str, answer: str) -> float:
        grams, known = _grams(answer, size), set(_grams(prompt, size))
        copied = sum(g in known for g in grams) / len(grams) if grams else 0.0
        return 1.0 - max(0.0, copied - most) / (1.0 - most)

    return score


def no_repetition(size: int = 3) -> Criterion:
    """The part of an answer's word `size`-grams that are new."""

    def score(prompt: str, answer: str) -> float:
        grams = _grams(answer, size)
        return len(set(grams)) / len(grams) if grams else 1.0

    return score


def style(pattern: str, wanted: bool = True) -> Criterion:
    """1 where the regular expression is found in an answer (or, `wanted` False, is not found), else 0."""
    found = re.compile(pattern)
    return lambda prompt, answer: float(bool(found.search(answer)) == wanted)


@dataclasses.dataclass(frozen=True)
class RuleJudge:
    """The answer with the higher weighted mean of criteria is preferred.

    Confidence is the logistic of their difference over `scale`, mapped to 0 (equal) to 1: a difference of one `scale`
    gives 0.46, of three 0.91. Raises JudgeError for no criteria, weights that are not positive, or a NaN.
    """

    criteria: Mapping[str, tuple[Criterion, float]]  # name -> (criterion, weight)
    scale: float = 0.1

    def __post_init__(self):
        if not self.criteria or any(weight <= 0 for _, weight in self.criteria.values()):
            raise AnswerJudgeError("a rule judge needs criteria, each with a weight above 0")
        if self.scale <= 0:
            raise AnswerJudgeError(f"scale {self.scale} must be above 0")

    def __call__(self, choices: Sequence[Choice]) -> list[Verdict]:
        return [self._judge(choice) for choice in choices]

    def _judge(self, choice: Choice) -> Verdict:
        total = sum(weight for _, weight in self.criteria.values())
        gaps = {
            name: weight
            / total
            * (criterion(choice.prompt, choice.second) - criterion(choice.prompt, choice.first))
            for name, (criterion, weight) in self.criteria.items()
        }
        gap = sum(gaps.values())
        decisive = [name for name, part in sorted(gaps.items(), key=lambda x: -abs(x[1])) if part]
        return _by_gap(gap, self.scale, ", ".join(decisive))


def reward_judge(
    reward: Callable[[Sequence[tuple[str, str]]], Sequence[float]], scale: float = 1.0
) -> Judge:
    """A judge that prefers the answer of the higher reward; `reward` takes (prompt, answer) pairs.

    Confidence is 0.46 where the rewards differ by `scale`. Raises JudgeError on NaN.
    """

    def judge(choices: Sequence[Choice]) -> list[Verdict]:
        asked = [(c.prompt, said) for c in choices for said in (c.first, c.second)]
        told = list(reward(asked))
        if len(told) != len(asked):
            raise AnswerJudgeError(f"the reward gave {len(told)} numbers for {len(asked)} answers")
        return [
            _by_gap(
                told[2 * i + 1] - told[2 * i],
                scale,
                f"rewards {told[2 * i]:.3g}, {told[2 * i + 1]:.3g}",
            )
            for i in range(len(choices))
        ]

    return judge


# --------------------------------------------------------------------------------------- by a language model

TEMPLATE = """\
Which of two answers to a request is better: more helpful, correct and polite?

Request: {prompt}

Answer A: {first}

Answer B: {second}

The better answer is Answer"""


@dataclasses.dataclass(frozen=True)
class LanguageJudge:
    """A language model is asked which answer is better, each pair in both orders: its liking for a place cancels.

    score: (prompts, continuations) -> the log-probability of each continuation after its prompt, nats. The model's
    word in one order is P(A) against P(B) of the two continuations alone; the log-odds of the two orders are averaged.
    Confidence is |2 P - 1| of that mean: 0 where the two orders contradict each other equally, 1 where both are sure.
    Raises JudgeError for a template without its three places, and for a score that is not a finite number.
    """

    score: Score
    template: str = TEMPLATE
    names: tuple[str, str] = (" A", " B")  # continuations that name the first and the second place

    def __post_init__(self):
        for place in ("{prompt}", "{first}", "{second}"):
            if place not in self.template:
                raise AnswerJudgeError(f"the judge's template lacks {place}")

    def __call__(self, choices: Sequence[Choice]) -> list[Verdict]:
        asked = []
        for choice in choices:
            for first, second in ((choice.first, choice.second), (choice.second, choice.first)):
                asked += [self._ask(choice.prompt, first, second)] * 2
        told = list(self.score(asked, list(self.names) * (2 * len(choices))))
        if len(told) != len(asked) or not all(math.isfinite(x) for x in told):
            raise AnswerJudgeError(f"the judge's score must give {len(asked)} finite numbers")
        return [self._preference(*told[4 * i : 4 * i + 4]) for i in range(len(choices))]

    def _ask(self, prompt: str, first: str, second: str) -> str:
        parts = {"{prompt}": prompt, "{first}": first, "{second}": second}
        return re.sub(r"\{(?:prompt|first|second)\}", lambda m: parts[m[0]], self.template)

    def _preference(self, a_1: float, b_1: float, a_2: float, b_2: float) -> Verdict:
        """a, b: log-probabilities of the two places; in the second order the answers have changed places."""
        orders = (b_1 - a_1, a_2 - b_2)  # log-odds for the second answer
        mean = sum(orders) / 2
        agree = (orders[0] > 0) == (orders[1] > 0)
        why = f"log-odds {orders[0]:+.2f} and {orders[1]:+.2f}" + (
            "" if agree else ", the orders disagree"
        )
        return _by_gap(mean, 1.0, why)


# --------------------------------------------------------------------------------------------------- labelling


@dataclasses.dataclass(frozen=True)
class AnswerJudgeConfig:
    """A judge by settings. `kind` "": nobody; "rule": the criteria below; "language": a model, asked by `template`."""

    kind: Literal["", "rule", "language"] = ""
    threshold: float = 0.2  # confidence below which a pair is dropped
    words: tuple[int, int] = (15, 60)  # rule: the length band
    required: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    copying: bool = True  # rule: words of one's own, and none repeated
    template: str = TEMPLATE
    length: int = 512  # tokens that the language model reads

    def rule(self) -> RuleJudge:
        """The rule judge of these settings: every criterion weighs the same."""
        criteria = {"length": length_band(*self.words)}
        criteria |= {"required": phrase_share(*self.required)} if self.required else {}
        criteria |= {"forbidden": forbidden(*self.forbidden)} if self.forbidden else {}
        criteria |= (
            {"own words": own_words(), "repetition": no_repetition()} if self.copying else {}
        )
        return RuleJudge({name: (criterion, 1.0) for name, criterion in criteria.items()})


def label(
    choices: Iterable[Choice],
    judge: Judge,
    path: str | Path,
    threshold: float = 0.2,
    batch: int = 64,
    group: str = "judge",
) -> dict[str, int]:
    """Writes the pairs that a judge is sure of as .jsonl, as `data.pairs` reads it, whole or not at all; gives counts.

    choices: two answers to a prompt each. judge: choices to preferences. path: of the file. threshold: confidence, 0
    to 1, below which a pair is left out. batch: choices that the judge is asked at once. group: a name written to
    every row.

    A row: prompt, chosen, rejected, confidence, why, group. The counts: `written`, of them `second` (the second was
    preferred); left out: `below threshold`, `no difference`, `same answers` (not asked at all).

    Raises JudgeError where the judge gives another number of preferences than it was asked for, or a confidence that is
    not from 0 to 1.
    """
    path, counts = Path(path), Counter()
    with open_atomically(path) as file:
        for part in _parts(choices, batch):
            asked = [c for c in part if c.first.strip() != c.second.strip()]
            counts["same answers"] += len(part) - len(asked)
            told = list(judge(asked)) if asked else []
            if len(told) != len(asked):
                raise AnswerJudgeError(
                    f"the judge gave {len(told)} preferences for {len(asked)} choices"
                )
            for choice, said in zip(asked, told, strict=True):
                row = _row(choice, said, threshold, counts)
                if row:
                    file.write(json.dumps(row | {"group": group}, ensure_ascii=False) + "\n")
    return {
        name: counts[name]
        for name in ("written", "second", "below threshold", "no difference", "same answers")
    }


def _row(choice: Choice, said: Verdict, threshold: float, counts: Counter) -> dict | None:
    if not 0 <= said.confidence <= 1:
        raise AnswerJudgeError(f"a confidence is from 0 to 1, not {said.confidence}")
    if said.preferred is None:
        counts["no difference"] += 1
        return None
    if said.confidence < threshold:
        counts["below threshold"] += 1
        return None
    counts["written"] += 1
    counts["second"] += said.preferred
    answers = (choice.first, choice.second)
    turns = [{"role": role, "content": said} for role, said in choice.turns]
    return {
        "prompt": turns or choice.prompt,
        "chosen": answers[said.preferred],
        "rejected": answers[1 - said.preferred],
        "confidence": round(said.confidence, 4),
        "why": said.why,
    }


def _by_gap(gap: float, scale: float, why: str) -> Verdict:
    """A preference by how much better the second is."""
    if math.isnan(gap):
        raise AnswerJudgeError(
            "a criterion or reward is not a number (NaN): nothing can be said of that pair"
        )
    if gap == 0:
        return Verdict(None, 0.0, "no difference")
    return Verdict(int(gap > 0), math.tanh(abs(gap) / scale / 2), why)


def _parts(items: Iterable[Choice], size: int) -> Iterable[list[Choice]]:
    part: list[Choice] = []
    for item in items:
        part.append(item)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def _has(text: str, phrase: str) -> bool:
    found = rf"(?<!\w){regex.escape(phrase)}(?!\w)"  # a mark is part of its letter, as `re` does not know
    return regex.search(found, text, regex.IGNORECASE) is not None


def _grams(text: str, size: int) -> list[tuple[str, ...]]:
    words = regex.findall(r"[\w\p{N}]+", text.casefold())
    return [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]

"""Floor 4: what is wrong with an answer, before anybody reads it: probabilities by label, for `dialogue.decision`.

A judge is (question, answer, sources, told) -> {label: probability}: `sources` are the prompt's passages, `told` is all
else that the model was told. `by_rules` knows words that the tenant never says (style), and figures and citations
that no source has (grounding); `together` asks several judges and believes the gravest.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from jaxrec.dialogue.memory import split_sentences
from jaxrec.words import words

Judge = Callable[[str, str, Sequence[str], str], Mapping[str, float]]
_CITED = re.compile(r"\[(\d{1,3})\]")
_FIGURE = re.compile(r"\d+(?:[.,:]\d+)*")
_LISTED = re.compile(r"^\s*\d{1,2}[.)]\s", re.MULTILINE)  # the number of an entry states nothing


def by_rules(never: Sequence[str] = ()) -> Judge:
    """What can be seen without a model: certain, and far from everything. Labels: style and, with sources, grounding.

    never: words and phrases that the tenant never says.
    """
    barred = [tuple(words(one)) for one in never if words(one)]

    def judge(question: str, answer: str, sources: Sequence[str], told: str) -> dict[str, float]:
        found = {"style": float(any(_says(answer, one) for one in barred))}
        if sources:
            known = set(figures("\n".join([question, told, *sources])))
            cited = {int(number) for number in _CITED.findall(answer)}
            wrong = bool(cited - set(range(1, len(sources) + 1)))
            found["grounding"] = float(wrong or bool(set(figures(answer)) - known))
        return found

    return judge


def figures(text: str) -> list[str]:
    """The numbers of a text as they are written (12.50, 9:30), citations and numbers of lists left out."""
    return _FIGURE.findall(_LISTED.sub(" ", _CITED.sub(" ", text)))


def without_words(answer: str, never: Sequence[str]) -> str:
    """The answer without the sentences that say a word which the tenant never says: the least micro-edit."""
    barred = [tuple(words(one)) for one in never if words(one)]
    kept = [s for s in split_sentences(answer) if not any(_says(s, one) for one in barred)]
    return " ".join(kept)


def cited(answer: str, count: int) -> tuple[int, ...]:
    """The places of the sources that an answer names as [1], from 0, in order; those that there are."""
    numbers = dict.fromkeys(int(number) - 1 for number in _CITED.findall(answer))
    return tuple(number for number in numbers if 0 <= number < count)


def together(*judges: Judge) -> Judge:
    """Of several judges the gravest probability of each label."""

    def judge(question: str, answer: str, sources: Sequence[str], told: str) -> dict[str, float]:
        found: dict[str, float] = {}
        for one in judges:
            for label, score in one(question, answer, sources, told).items():
                found[label] = max(score, found.get(label, 0.0))
        return found

    return judge


def _says(text: str, phrase: tuple[str, ...]) -> bool:
    said = words(text)
    return any(tuple(said[i : i + len(phrase)]) == phrase for i in range(len(said)))

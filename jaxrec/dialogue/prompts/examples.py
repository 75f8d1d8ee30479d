"""Few-shot examples: which of many exchanges stand before a question, near to it and unlike each other.

Chosen by maximal marginal relevance (Carbonell & Goldstein 1998; `retrieval.diversity`) over vectors that `embed`
gives. Each text is embedded once: an example when it is added, a question when it is first asked.
"""

import dataclasses
import re
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from jaxrec.dialogue.prompts.generation import PromptError
from jaxrec.retrieval.diversity import diversify
from jaxrec.types import Shortlist
from jaxrec.words import words

Embed = Callable[[Sequence[str]], np.ndarray]  # texts -> vectors [N, D]
_QUESTIONS = 1024  # vectors of questions that are kept
_WIDTH = 512  # of `word_vectors`


@dataclasses.dataclass(frozen=True)
class Example:
    """An exchange that shows how to answer."""

    question: str
    answer: str


class ExamplePool:
    """Exchanges to choose from. Not to be changed by two threads at once.

    embed: texts to vectors of any length; `word_vectors` where there is no sentence encoder.
    """

    def __init__(self, embed: Embed, examples: Iterable[Example] = ()):
        self.embed = embed
        self.examples: list[Example] = []
        self._vectors_ED = np.zeros((0, 0), np.float32)  # of unit length, one an example
        self._asked: OrderedDict[str, np.ndarray] = OrderedDict()
        self.add(*examples)

    def __len__(self) -> int:
        return len(self.examples)

    def add(self, *examples: Example) -> None:
        """Takes up exchanges; one that is there already is not taken twice. Raises PromptError for an empty one."""
        fresh = [one for one in dict.fromkeys(examples) if one not in self.examples]
        for one in fresh:
            if not one.question.strip() or not one.answer.strip():
                raise PromptError(
                    "an example has a question and an answer, and one of them is empty"
                )
        if fresh:
            made_ED = self._unit([one.question for one in fresh])
            self._vectors_ED = (
                np.concatenate([self._vectors_ED, made_ED]) if self.examples else made_ED
            )
            self.examples += fresh

    def choose(self, question: str, count: int, lam: float = 0.7) -> list[Example]:
        """`count` examples or fewer, the best first.

        lam: 1 looks at similarity to the question alone, 0 at differences among the chosen alone. Of two that are
        nearly the same (a cosine above .98) one is enough.
        """
        if count < 1 or not self.examples:
            return []
        cosine_E = self._vectors_ED @ self._vector(question)
        # MMR compares all pairs, so only the nearest are let into it.
        near = np.argsort(-cosine_E, kind="stable")[: max(4 * count, 16)]
        found = diversify(
            Shortlist(near[None].astype(np.int64), cosine_E[near][None].astype(np.float32)),
            self._vectors_ED[near][None],
            count,
            method="mmr",
            duplicate=0.98,
            lam=lam,
        )
        return [self.examples[i] for i in found.items_BJ[0] if i >= 0]

    def _vector(self, question: str) -> np.ndarray:
        if question not in self._asked:
            self._asked[question] = self._unit([question])[0]
            if len(self._asked) > _QUESTIONS:
                self._asked.popitem(last=False)
        self._asked.move_to_end(question)
        return self._asked[question]

    def _unit(self, texts: Sequence[str]) -> np.ndarray:
        vectors_ND = np.asarray(self.embed(texts), np.float32)
        if (
            vectors_ND.ndim != 2
            or len(vectors_ND) != len(texts)
            or not np.isfinite(vectors_ND).all()
        ):
            raise PromptError(
                f"embed gave {vectors_ND.shape} for {len(texts)} texts: one finite vector each"
            )
        if self.examples and vectors_ND.shape[1] != self._vectors_ED.shape[1]:
            raise PromptError("embed gives vectors of another width than before")
        return vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-9)


def word_vectors(texts: Sequence[str]) -> np.ndarray:
    """[N, 512] vectors of words alone, hashed (Weinberger et al. 2009): no model, no meaning, no waiting."""
    out_ND = np.zeros((len(texts), _WIDTH), np.float32)
    for row_D, text in zip(out_ND, texts, strict=True):
        for word in words(text):
            number = zlib.crc32(word.encode())
            row_D[number % _WIDTH] += 1.0 if number >> 31 else -1.0
    return out_ND


_MARK = re.compile(r"^\s*(?:\(?\d{1,2}[.):]|[-*•])\s+")


def numbered(text: str, most: int) -> list[str]:
    """The entries of a numbered list that a model wrote, without their numbers; lines that are no entries are left."""
    lines = [line for line in text.splitlines() if _MARK.match(line)]
    return [said for line in lines if (said := _MARK.sub("", line).strip())][:most]

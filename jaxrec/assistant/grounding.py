"""Floor 4: from a question to the passages that may answer it, in the two steps of S0's section 5: encode, retrieve.

grounding = Grounding.of_documents("luna", documents, encoder)
asked = grounding.asked("how long does it take?", history)      # what a follow-up leaves unsaid is carried over
grounding.encode(asked)                                         # its vector, kept, so that a turn is read once
grounding.retrieve(asked)                                       # sources, the best first
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

from jaxrec.data.message import Message
from jaxrec.dialogue.memory import split_sentences
from jaxrec.retrieval.lexical import LexicalIndex
from jaxrec.retrieval.passages.document import Document
from jaxrec.retrieval.passages.encoder import TextEncoder
from jaxrec.retrieval.passages.folder import PassageIndexConfig
from jaxrec.retrieval.passages.index import PassageIndex
from jaxrec.retrieval.passages.rewriting import rewritten

_KEPT = 256  # vectors of questions


@dataclasses.dataclass(frozen=True)
class Source:
    """A passage that stands in a prompt. place: title and headings; citation: its place to the character."""

    text: str
    place: str
    citation: str
    document: str
    start: int
    end: int
    score: float

    @property
    def told(self) -> str:
        """As the prompt has it: where it stands, then what it says."""
        return f"{self.place}: {self.text}"


class Grounding:
    """The passages of one tenant.

    index: of its documents. count: sources of an answer at most. least: the score below which a passage is none.
    """

    def __init__(self, index: PassageIndex, count: int = 3, least: float = 0.0):
        self.index, self.count, self.least = index, count, least
        self._inner, self._vectors = index.encoder, OrderedDict[str, np.ndarray]()
        # The search asks its encoder for the question's vector: it is given the one that is there already.
        index.encoder = dataclasses.replace(index.encoder, queries=self._kept)

    @classmethod
    def of_documents(
        cls,
        tenant: str,
        documents: Iterable[Document],
        encoder: TextEncoder,
        *,
        config: PassageIndexConfig | None = None,
        count: int = 3,
        least: float = 0.0,
    ) -> "Grounding":
        """A tenant's documents indexed anew, in memory. Raises SearchError where they hold no text.

        tenant: whose they are. documents: in any order. encoder: what makes vectors. config: of the index. count,
        least: as of the class.
        """
        return cls(PassageIndex.build(tenant, documents, encoder, config), count, least)

    def asked(self, question: str, history: Sequence[Message] = ()) -> str:
        """The question as it is searched for, made whole from the conversation before it."""
        return rewritten(question, list(history)).question

    def encode(self, question: str) -> np.ndarray:
        """The question's vector [D]. The last ones are kept."""
        return self._kept([question])[0]

    def retrieve(self, question: str) -> tuple[Source, ...]:
        """The passages that may answer, the best first, neighbours joined."""
        quotes = self.index.search(question, self.count).quotes
        return tuple(
            Source(q.text, q.place, q.citation, q.document, q.start, q.end, q.score)
            for q in quotes
            if q.score >= self.least
        )

    def forget(self) -> None:
        """Lets go of the questions' vectors."""
        self._vectors.clear()

    def _kept(self, questions: Sequence[str]) -> np.ndarray:
        for one in questions:
            if one not in self._vectors:
                self._vectors[one] = self._inner.embed_queries([one])[0]
        found = np.stack([self._vectors[one] for one in questions])
        while len(self._vectors) > _KEPT:
            self._vectors.popitem(last=False)
        return found


def excerpt(text: str, question: str, length: int) -> str:
    """Whole sentences of a passage in their order, `length` characters at most: those nearest to the question."""
    parts = split_sentences(text)
    found = LexicalIndex.build(parts).search(question, max(len(parts), 1)).items_BJ[0]
    order = [*(i for i in found if i >= 0), *(i for i in range(len(parts)) if i not in found)]
    kept: list[int] = []
    for i in order:
        if sum(len(parts[j]) + 1 for j in (*kept, i)) <= length:
            kept.append(i)
    said = " ".join(parts[i] for i in sorted(kept)) or text[:length].rsplit(" ", 1)[0]
    return " ".join(said.split())

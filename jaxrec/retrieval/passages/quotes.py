"""Floor 2: what a search gives back: stretches of documents with their places, neighbours joined, to be cited."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxrec.retrieval.passages.document import Document, Passage


@dataclasses.dataclass(frozen=True)
class Quote:
    """A stretch that may answer: document.text[start:end] is `text`. parts: what each ranker said, by name."""

    document: str
    start: int
    end: int
    text: str
    title: str
    headings: tuple[str, ...]
    numbers: tuple[int, ...]  # of the document's passages
    score: float
    parts: Mapping[str, float]

    @property
    def place(self) -> str:
        """Title and headings, as they are shown: "Delivery > Abroad"; the document's id without them."""
        path = [self.title, *self.headings]
        said = [part for i, part in enumerate(path) if part and part not in path[:i]]
        return " > ".join(said) or self.document

    @property
    def citation(self) -> str:
        """Where it stands, to the character: "Delivery > Abroad (delivery.md, 120-431)"."""
        return f"{self.place} ({self.document}, {self.start}-{self.end})"


class Hit(NamedTuple):
    """A passage that was found."""

    passage: Passage
    score: float
    parts: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Found:
    """The answer to a search: the question as it was searched for, and the quotes, best first.

    hits: the passages before neighbours were joined, best first, of which there may be more than are quoted. rarity:
    of the question's stems, see `WordIndex.rarity`.
    """

    question: str
    quotes: tuple[Quote, ...]
    hits: tuple[Hit, ...]
    rarity: Mapping[str, float] = dataclasses.field(default_factory=dict)


def joined(hits: Sequence[Hit], documents: Mapping[str, Document], most: int) -> tuple[Quote, ...]:
    """Hits as quotes; those that stand next to each other in a document become one, at the place of the better.

    documents: by their ids. most: characters of a joined quote; what would be longer stays apart.
    """
    runs: list[list[Hit]] = []
    for hit in hits:  # best first, so a run stands where its best one does
        near = [run for run in runs if _fits(run, hit, most)]
        if not near:
            runs.append([hit])
            continue
        near[0].append(hit)
        # A passage between two runs makes them one, unless that is too long.
        for other in near[1:]:
            if _span(near[0] + other) <= most:
                near[0] += other
                runs.remove(other)
    return tuple(_quote(run, documents) for run in runs)


def _fits(run: Sequence[Hit], hit: Hit, most: int) -> bool:
    numbers = [h.passage.number for h in run]
    mine = hit.passage
    beside = mine.number in (min(numbers) - 1, max(numbers) + 1)
    same = mine.document == run[0].passage.document
    return same and beside and _span([*run, hit]) <= most


def _span(run: Sequence[Hit]) -> int:
    return max(h.passage.end for h in run) - min(h.passage.start for h in run)


def _quote(run: Sequence[Hit], documents: Mapping[str, Document]) -> Quote:
    best, order = run[0], sorted((h.passage for h in run), key=lambda p: p.number)
    start, end = order[0].start, order[-1].end
    shared = order[0].headings
    for passage in order[1:]:
        same = [a == b for a, b in zip(shared, passage.headings, strict=False)]
        shared = shared[: same.index(False) if False in same else len(same)]
    return Quote(
        document=best.passage.document,
        start=start,
        end=end,
        text=documents[best.passage.document].text[start:end],
        title=best.passage.title,
        headings=shared,
        numbers=tuple(p.number for p in order),
        score=best.score,
        parts=best.parts,
    )

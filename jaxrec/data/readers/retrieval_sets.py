"""Questions whose right text is known, out of three public sets of documents: what retrieval is measured on.

bank-faqs         1,499 questions -> 1,202 distinct answers
twin_til          577 titles of notes -> the notes, each without the line of its title
tau2-documents    698 titles of a bank's documents -> the documents
tau2-passages     800 titles and headings -> 2,944 sections: the title stands above each, the heading does not

one = read("twin_til")
one.texts[one.right_N[7]]        # what one.queries[7] asks for
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from jaxrec.config import RunError
from jaxrec.data.folder import dataset
from jaxrec.data.readers.raw import DataError
from jaxrec.data.readers.rows import object_of
from jaxrec.data.readers.text_files import lines, records

HEADING = re.compile(r"^#{1,6}[ \t]+(.*)$", re.M)
ASKED = 800  # of the sections, how many are asked for


@dataclass(frozen=True)
class RetrievalSet:
    """Texts, and queries with the number of the one text that is right for each.

    A question that stands twice with two answers is two queries; for each the other's answer counts as wrong.
    """

    name: str
    queries: list[str]
    texts: list[str]
    right_N: Int[np.ndarray, "N"]


def read(name: str) -> RetrievalSet:
    """A set by its name. Raises RunError for an unknown one, DataMissing without JAXREC_DATA, DataError for damage."""
    if name not in SETS:
        raise RunError(f"there is no retrieval set {name!r}; there are {', '.join(SETS)}")
    return SETS[name]()


def bank_faqs() -> RetrievalSet:
    """A bank's questions, and its answers, each once (apart from white space)."""
    path = dataset("bank-faqs") / "BankFAQs.csv.gz"
    rows = [row for _, row in records(path)]
    if not rows or rows[0][:2] != ["Question", "Answer"]:
        raise DataError(f"{path}: its first row is not Question,Answer,...")
    width = len(rows[0])
    if uneven := next((i for i, row in enumerate(rows) if len(row) != width), None):
        raise DataError(f"{path}: row {uneven + 1} has {len(rows[uneven])} columns, not {width}")
    queries = [" ".join(row[0].split()) for row in rows[1:]]
    answers = [" ".join(row[1].split()) for row in rows[1:]]
    places = {answer: i for i, answer in enumerate(dict.fromkeys(answers))}
    return _made("bank-faqs", queries, list(places), [places[answer] for answer in answers])


def twin_til() -> RetrievalSet:
    """One author's notes by their titles."""
    folder = dataset("twin_til")
    queries, texts = [], []
    for path in sorted(folder.glob("*/**/*.md")):  # the README above the folders is their index
        title, _, note = _whole(path).lstrip().partition("\n")
        if not title.startswith("# "):
            raise DataError(f"{path}: its first line is no title (# ...)")
        queries.append(title[2:].strip())
        texts.append(note.strip())
    return _made("twin_til", queries, texts, range(len(texts)))


def tau2_documents() -> RetrievalSet:
    """A bank's internal documents by their titles; titles that several share are one query for each."""
    titles, contents = zip(*_tau2(), strict=True)
    return _made("tau2-documents", list(titles), list(contents), range(len(contents)))


def tau2_passages() -> RetrievalSet:
    """Sections of those documents by title and heading; `ASKED` of those that have a heading are drawn, evenly."""
    asked, texts = [], []
    for title, content in _tau2():
        for heading, body in sections(content):
            if heading:
                asked.append((f"{title}: {heading}", len(texts)))
            texts.append(f"{title}\n\n{body}")
    step = max(len(asked) / ASKED, 1.0)
    drawn = [asked[int(i * step)] for i in range(min(ASKED, len(asked)))]
    return _made("tau2-passages", [query for query, _ in drawn], texts, [i for _, i in drawn])


def sections(markdown: str) -> Iterator[tuple[str, str]]:
    """(heading, text below it) of each section that has a text; the heading is "" for what stands above the first."""
    found = list(HEADING.finditer(markdown))
    starts = [0, *(m.end() for m in found)]
    ends = [*(m.start() for m in found), len(markdown)]
    headings = ["", *(m[1].strip(" #\t") for m in found)]
    for heading, start, end in zip(headings, starts, ends, strict=True):
        if body := markdown[start:end].strip():
            yield heading, body


SETS: dict[str, Callable[[], RetrievalSet]] = {
    "bank-faqs": bank_faqs,
    "twin_til": twin_til,
    "tau2-documents": tau2_documents,
    "tau2-passages": tau2_passages,
}


# ------------------------------------------------------------------------------------------ inside


def _made(
    name: str, queries: list[str], texts: list[str], right: "list[int] | range"
) -> RetrievalSet:
    if not queries:
        raise DataError(f"{name}: no queries in its folder")
    return RetrievalSet(name, queries, texts, np.array(right))


def _tau2() -> list[tuple[str, str]]:
    path = dataset("tau2") / "banking_knowledge__documents.jsonl.gz"
    found = []
    for at, line in lines(path):
        record = object_of(line)
        if record is None or not {"title", "content"} <= set(record):
            raise DataError(f"{path}:{at}: not a JSON object with a title and a content")
        found.append((record["title"], record["content"]))
    if not found:
        raise DataError(f"{path}: no rows")
    return found


def _whole(path: Path) -> str:
    return "".join(line for _, line in lines(path))

"""Every short text of the public sets, each once: what real sentence vectors are measured on.

Titles, questions, utterances, sentences of reviews and of descriptions, paragraphs of notes. A set that is not in
JAXREC_DATA is an error: measured numbers must not depend on what happened to be there.
"""

import csv
import gzip
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxrec.data.folder import dataset
from jaxrec.files import content_hash, open_atomically

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_SPEAKER = re.compile(r"^User \d: ")
LETTERS = 8, 400  # shorter is no sentence; longer is cut at its sentences
csv.field_size_limit(1 << 24)


def all_texts(most: int = 20_000, seed: int = 0) -> tuple[list[str], dict[str, int]]:
    """(texts, how many each set gave), duplicates by letters and case dropped; at most `most` of one set, drawn.

    The order is shuffled, so that any first n are a sample of all. Raises DataMissing.
    """
    rng = np.random.default_rng(seed)
    seen: set[str] = set()
    texts: list[str] = []
    counts = {}
    for name, read in SOURCES.items():
        own = []
        for text in itertools.chain.from_iterable(map(pieces, read(dataset(name)))):
            key = re.sub(r"\W+", " ", text).strip().lower()
            if key not in seen and len(key) >= LETTERS[0]:
                seen.add(key)
                own.append(text)
        kept = sorted(rng.choice(len(own), min(most, len(own)), replace=False))
        texts += [own[i] for i in kept]
        counts[name] = len(kept)
    return [texts[i] for i in rng.permutation(len(texts))], counts


def real_vectors(n: int, cache: Path) -> tuple[Float[np.ndarray, "I D"], dict[str, int]]:
    """MiniLM's vectors of the first n of `all_texts`, kept in `cache` by the texts' hash. Raises ModelMissing."""
    from jaxrec.models.text.sentence import SentenceEncoder

    texts, counts = all_texts()
    texts = texts[:n]
    mark = content_hash("\n".join(texts), digits=16)
    path = cache / f"minilm-{len(texts)}-{mark}.npy"
    if not path.exists():
        vectors_ID = SentenceEncoder.load()(texts)
        with open_atomically(path, "wb") as file:
            np.save(file, vectors_ID)
    return np.load(path), counts


def pieces(text: str) -> Iterator[str]:
    """The text, or its sentences where it is long, with single spaces."""
    whole = [text] if len(text) <= LETTERS[1] and "\n" not in text else _SENTENCE_END.split(text)
    for piece in whole:
        piece = _SPEAKER.sub("", " ".join(piece.split()))
        if len(piece) >= LETTERS[0]:
            yield piece[: LETTERS[1]]


# ------------------------------------------------------------------------------------------ inside


def _lines(path: Path) -> Iterator[str]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", errors="replace", newline="") as file:
        yield from file


def _columns(file: str, *names: str, delimiter: str = ",") -> Callable[[Path], Iterator[str]]:
    """Named columns of a CSV with a head."""

    def read(folder: Path) -> Iterator[str]:
        quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
        rows = csv.DictReader(_lines(folder / file), delimiter=delimiter, quoting=quoting)
        for row in rows:
            yield from (row[name] for name in names if row.get(name))

    return read


def _records(file: str, *names: str) -> Callable[[Path], Iterator[str]]:
    """Named strings, wherever they lie, of JSON or of JSON lines."""

    def read(folder: Path) -> Iterator[str]:
        if ".jsonl" in file or file.startswith(("meta_", "Gift_Cards")):
            records: Iterable[object] = map(json.loads, _lines(folder / file))
        else:
            records = [json.loads("".join(_lines(folder / file)))]
        for record in records:
            yield from _named(record, names)

    return read


def _named(value: object, names: tuple[str, ...]) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _named(item, names)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in names and isinstance(item, str):
                yield item
            elif key in names and isinstance(item, list) and all(isinstance(x, str) for x in item):
                yield from item
            else:
                yield from _named(item, names)


def _movies(folder: Path) -> Iterator[str]:
    for line in (folder / "movies.dat").read_text(encoding="latin-1").splitlines():
        _, title, genres = line.split("::")
        yield f"{title} {genres.replace('|', ', ')}"


def _notes(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*.md")):
        for paragraph in re.split(
            r"\n\s*\n", re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
        ):
            yield paragraph.replace("\n", " ")


def _turns(folder: Path) -> Iterator[str]:
    for line in _lines(folder / "harmless-base_test.jsonl.gz"):
        yield from re.split(r"\n\n(?:Human|Assistant):", json.loads(line)["chosen"])


def _joined(*reads: Callable[[Path], Iterator[str]]) -> Callable[[Path], Iterator[str]]:
    return lambda folder: itertools.chain.from_iterable(read(folder) for read in reads)


SOURCES: dict[str, Callable[[Path], Iterator[str]]] = {
    "amazon14-beauty": _columns("item_title.tsv.gz", "title", delimiter="\t"),
    "amazon18-gift-cards": _joined(
        _records("meta_Gift_Cards.json.gz", "title", "description", "feature"),
        _records("Gift_Cards_5.json.gz", "reviewText", "summary"),
    ),
    "amazon18-minionerec-industrial": _records(
        "index_Industrial_and_Scientific.item.json.gz", "title", "description"
    ),
    "ml-1m": _movies,
    "amazon14-musical-instruments-reviews": _columns("reviews.csv.gz", "summary", "reviewText"),
    "bank-faqs": _columns("BankFAQs.csv.gz", "Question", "Answer"),
    "bitext": _joined(
        _columns("bitext_27k_instruction_category.csv.gz", "instruction"),
        _columns("bitext_8k_flags_utterance_category_intent.csv.gz", "utterance"),
    ),
    "sgd": _joined(_records("dev.jsonl.gz", "utterance"), _records("train.jsonl.gz", "utterance")),
    "twin_til": _notes,
    "convabuse": _columns("ConvAbuseEMNLPfull.csv.gz", "user", "agent"),
    "hh_rlhf": _turns,
    "inspired": _joined(
        _columns("dev.tsv.gz", "text", delimiter="\t"),
        _columns("test.tsv.gz", "text", delimiter="\t"),
    ),
    "popquorn": _joined(
        _columns("offensiveness.csv.gz", "text"),
        _columns("email_rewriting.csv.gz", "original email", "revised email"),
    ),
    "synthetic_persona_chat": _joined(
        *(
            _columns(
                f"{part}.csv.gz",
                "user 1 personas",
                "user 2 personas",
                "Best Generated Conversation",
            )
            for part in ("valid", "test")
        )
    ),
    "xrec-amazon": _records(
        "explanations_test.jsonl.gz", "title", "user_summary", "item_summary", "explanation"
    ),
    "tau2": _records("banking_knowledge__documents.jsonl.gz", "title", "content"),
}

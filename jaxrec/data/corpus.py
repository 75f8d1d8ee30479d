"""Texts to pretrain on: documents and dialogues from the sample world, the public sets, or files of one's own.

A source is a name or a path:
    world            the sample world: training tenants' dialogues, guides and pages, general instructions
    sgd, sgd:dev     Schema-Guided Dialogue (JSON lines of turns with `speaker` and `utterance`)
    twin_til         a folder of Markdown notes
    shop:NAME        a data set of interactions: what people wrote, and what is known of the items
    xrec             the profiles of XRec's training people and of what they read; no explanation
    PATH             a folder of .md and .txt files, one such file, or .jsonl[.gz] with `text`, or with `turns` of
                     `role` and `text`
"""

import gzip
import html
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from jaxrec.config import RunError
from jaxrec.data import text
from jaxrec.data.folder import dataset

Document = str | list[tuple[str, str]]  # plain text, or (role, text) turns
_SPEAKERS = {"USER": "user", "SYSTEM": "assistant"}


class CorpusError(RunError, ValueError):
    """A text source that cannot be read."""


def read(source: str) -> list[Document]:
    """All documents of a source, in a fixed order. Raises CorpusError or DataMissing naming what is wrong."""
    documents = list(documents_of(source))
    if not documents:
        raise CorpusError(f"text source {source!r} holds no text")
    return documents


def documents_of(source: str) -> Iterator[Document]:
    """The documents of `read` one by one: of files of lines only one is in memory at a time."""
    name, _, part = source.partition(":")
    known: dict[str, Callable[[], Iterator[Document]]] = {
        "world": _world,
        "sgd": lambda: _jsonl(dataset("sgd") / f"{part or 'train'}.jsonl.gz"),
        "twin_til": lambda: _folder(dataset("twin_til")),
        "shop": lambda: _shop(part),
        "xrec": _xrec,
    }
    if name in known and not Path(source).exists():
        return known[name]()
    if Path(source).is_dir():
        return _folder(Path(source))
    if Path(source).is_file():
        return _file(Path(source))
    raise CorpusError(
        f"text source {source!r} is no file or folder here, and none of {sorted(known)}"
    )


def hold_out(documents: Sequence[Document], every: int) -> tuple[list[Document], list[Document]]:
    """(training, held out): each `every`-th document is held out, a duplicate of one that is held out is dropped.

    Raises CorpusError where that leaves one of the two empty.
    """
    held = [d for i, d in enumerate(documents) if i % every == every - 1]
    known = {plain(d) for d in held}
    train = [d for d in documents if plain(d) not in known]
    if not held or not train:
        empty = "trained on" if held else "held out"
        raise CorpusError(
            f"of {len(documents)} documents none would be {empty}: hold_out_every is {every}, it should lie between"
            " 2 and their number"
        )
    return train, held


def plain(document: Document) -> str:
    """The text alone, turns on lines of their own."""
    return document if isinstance(document, str) else "\n".join(said for _, said in document)


def encode(tok: text.BytePairTokenizer, documents: Sequence[Document]) -> list[text.Example]:
    """Token sequences in which every token but the first is predicted, the customer's too."""
    rows = [
        text.document(tok, d) if isinstance(d, str) else text.dialogue(tok, d) for d in documents
    ]
    return [text.Example(row.ids, [0.0] + [1.0] * (len(row.ids) - 1)) for row in rows]


def _world() -> Iterator[Document]:
    from jaxrec.world.businesses import read_businesses
    from jaxrec.world.instructions import instructions
    from jaxrec.world.tenants import generate

    for tenant in [*generate(), *read_businesses()]:
        if tenant.held_out:
            continue
        yield tenant.guide
        yield from (f"{page.title}\n{page.text}" for page in tenant.pages)
        yield from ([(t.role, t.text) for t in d.turns] for d in tenant.onboarding)
    yield from ([(t.role, t.text) for t in trace.turns] for trace in instructions())


def _shop(name: str) -> Iterator[Document]:
    from jaxrec.data.interaction_sets import DataConfig, read

    found = read(DataConfig(name, whole_catalogue=True))
    items, reviews = found.items, found.reviews
    if reviews is not None:
        for summary, written in zip(reviews.summary, reviews.text, strict=True):
            if said := f"{summary}\n{written}".strip():
                yield html.unescape(said)
    for item, known in enumerate(items.texts()):
        told = items.description[item] if items.description else ""
        if said := f"{known}\n{told}".strip():
            yield html.unescape(said)


def _xrec() -> Iterator[Document]:
    from jaxrec.data.explanations import read_explained

    people = set()
    for row in read_explained(part="train"):
        yield f"{row.title}\n{row.item_summary}"
        if row.user not in people:
            people.add(row.user)
            yield row.user_summary


def _folder(folder: Path) -> Iterator[Document]:
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".md", ".txt") and path.is_file():
            yield from _file(path)


def _file(path: Path) -> Iterator[Document]:
    if ".jsonl" in path.suffixes:
        yield from _jsonl(path)
    else:
        said = path.read_text(encoding="utf-8", errors="replace").strip()
        if said:
            yield said


def _jsonl(path: Path) -> Iterator[Document]:
    if not path.is_file():
        raise CorpusError(f"there is no file {path.name} in {path.parent}")
    for number, line in enumerate(_lines(path), 1):
        try:
            yield document_of(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise CorpusError(
                f"{path}:{number}: neither `text` nor `turns` of role and text can be read ({error!r})"
            ) from error


def _lines(path: Path) -> Iterator[str]:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as lines:
            yield from lines
    except (gzip.BadGzipFile, EOFError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} cannot be read: {error}") from error


def document_of(row: dict) -> Document:
    """The document of a row with `text` or `turns`. Raises what says what is wrong with it."""
    if "turns" not in row:
        return _said(row["text"])
    turns = row["turns"]
    if turns and "utterance" in turns[0]:
        return [(_SPEAKERS[t["speaker"]], _said(t["utterance"])) for t in turns]
    if unknown := [t["role"] for t in turns if t["role"] not in text.ROLES]:
        raise ValueError(f"role {unknown[0]!r} is not one of {sorted(text.ROLES)}")
    return [(t["role"], _said(t["text"])) for t in turns]


def _said(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text is expected, not {value!r}")
    return value

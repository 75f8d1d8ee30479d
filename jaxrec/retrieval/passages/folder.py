"""Floor 2: an index of passages as a folder: written whole or not at all, every file's checksum verified.

FOLDER/index.json       version, tenant, encoder, config, sizes, checksums of each other file
FOLDER/documents.jsonl  the documents as they were given
FOLDER/passages.jsonl   document, start, end, headings: their texts stand in the documents
FOLDER/vectors.npy      [I, D] float32
FOLDER/tokens.npy, token_starts.npy   tokens of 8 bits (absent where the encoder gives none)
FOLDER/words/           bm25s
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec import config as configs
from jaxrec import files
from jaxrec.retrieval import checksums
from jaxrec.retrieval.passages.cutting import CutConfig
from jaxrec.retrieval.passages.document import Document, Passage
from jaxrec.retrieval.passages.fusion import Fusion
from jaxrec.retrieval.passages.late import PassageTokens
from jaxrec.retrieval.passages.word_index import Language, WordIndex
from jaxrec.retrieval.top_k import SearchError

VERSION = 1
HEAD = "index.json"


@dataclasses.dataclass(frozen=True)
class PassageIndexConfig:
    """How an index is made and searched."""

    cut: CutConfig = CutConfig()
    language: Language = "en"  # of the stems
    fusion: Fusion = Fusion()
    shortlist: int = 50  # passages that the late interaction looks at
    joined: int = 1800  # characters of neighbours that are quoted as one


@dataclasses.dataclass(frozen=True)
class Contents:
    """What an index holds at one moment; never changed, always replaced."""

    documents: dict[str, Document]
    passages: tuple[Passage, ...]
    vectors_ID: np.ndarray
    tokens: PassageTokens | None
    words: WordIndex


def write(
    contents: Contents, folder: str | Path, tenant: str, encoder: str, config: PassageIndexConfig
) -> None:
    """Writes an index; an older one there is replaced.

    contents: what it holds. folder: its place. tenant: whose it is. encoder: the name of its encoder. config: its
    settings. Raises SearchError where the folder holds something else.
    """
    with checksums.replacing(Path(folder).absolute(), HEAD) as fresh:
        documents = contents.documents.values()
        files.write_json_lines(fresh / "documents.jsonl", map(dataclasses.asdict, documents))
        files.write_json_lines(fresh / "passages.jsonl", map(_row, contents.passages))
        np.save(fresh / "vectors.npy", contents.vectors_ID)
        if contents.tokens is not None:
            contents.tokens.save(fresh)
        contents.words.save(fresh / "words")
        head = {
            "version": VERSION,
            "tenant": tenant,
            "encoder": encoder,
            "config": configs.to_dict(config),
            "documents": len(contents.documents),
            "passages": len(contents.passages),
            "files": checksums.marks_of(fresh),
        }
        files.write_json(fresh / HEAD, head, indent=2)


def read_head(folder: str | Path, verify: bool = False) -> tuple[Path, dict[str, Any]]:
    """The folder that is whole, and what its head says. Raises SearchError where there is no index, or a damaged one.

    verify: checksums of all files too, not their sizes alone.
    """
    whole = files.whole_folder(folder, HEAD)
    if whole is None:
        raise SearchError(f"there is no index of passages in {Path(folder).absolute()} (no {HEAD})")
    head = checksums.read_head(whole, HEAD, VERSION, verify)
    if lost := {"tenant", "encoder", "config", "documents", "passages"} - set(head):
        raise SearchError(f"{whole / HEAD} is no index of passages: it lacks {sorted(lost)[0]}")
    return whole, head


def config_of(head: dict[str, Any]) -> PassageIndexConfig:
    """The settings that an index was made with."""
    return configs.from_dict(PassageIndexConfig, head["config"])


def read_documents(folder: Path) -> dict[str, Document]:
    """The documents of an index."""
    found = [Document(**row) for row in files.read_json_lines(folder / "documents.jsonl")]
    return {document.id: document for document in found}


def read(folder: Path, head: dict[str, Any]) -> tuple[Contents, PassageIndexConfig]:
    """What the head's folder holds. Raises SearchError where its parts do not belong together."""
    config = config_of(head)
    documents = read_documents(folder)
    passages = _passages(folder, documents)
    vectors_ID = np.load(folder / "vectors.npy", mmap_mode="r")
    tokens = PassageTokens.load(folder)
    words = WordIndex.load(folder / "words", config.language)
    sizes = {len(passages), len(vectors_ID), words.rows, head["passages"]}
    if len(sizes) > 1 or (tokens is not None and len(tokens) != len(passages)):
        raise SearchError(f"{folder}: passages, vectors and words differ in number; build it again")
    return Contents(documents, passages, vectors_ID, tokens, words), config


def _passages(folder: Path, documents: dict[str, Document]) -> tuple[Passage, ...]:
    found = []
    for row in files.read_json_lines(folder / "passages.jsonl"):
        text = documents[row["document"]].text[row["start"] : row["end"]]
        found.append(Passage(**row | {"text": text, "headings": tuple(row["headings"])}))
    return tuple(found)


def _row(passage: Passage) -> dict[str, Any]:
    row = dataclasses.asdict(passage)
    del row["text"]
    return row

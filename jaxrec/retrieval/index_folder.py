"""Floor 2: an index as a folder: written whole or not at all, every file's checksum verified when it is read.

FOLDER/index.json      version, resolved config, reason, counts, size and SHA-256 of each other file
FOLDER/vectors.bin     the store: rows of float16 or float32, in the order of slots
FOLDER/structure.faiss cells, graph, codes (absent where all vectors are compared)
FOLDER/items.npy, alive.npy, label_NAME.npy   what each slot stands for
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec import config as configs
from jaxrec import files
from jaxrec.retrieval import checksums
from jaxrec.retrieval.index_choice import IndexConfig
from jaxrec.retrieval.item_ids import ItemIds
from jaxrec.retrieval.partitions import Partitions
from jaxrec.retrieval.structure import Structure
from jaxrec.retrieval.top_k import SearchError
from jaxrec.retrieval.vector_store import VectorStore

VERSION = 1
VECTORS = "vectors.bin"
_HEAD, _STRUCTURE, _ITEMS, _ALIVE = "index.json", "structure.faiss", "items.npy", "alive.npy"


@dataclasses.dataclass(frozen=True)
class IndexParts:
    """What an index is made of. structure None: all vectors are compared."""

    config: IndexConfig
    reason: str
    store: VectorStore
    ids: ItemIds
    partitions: Partitions
    structure: Structure | None


@contextlib.contextmanager
def writing(folder: str | Path | None) -> Iterator[Path | None]:
    """A fresh folder beside `folder` that takes its place when the block ends well, and is deleted otherwise.

    An older index there steps aside first and goes last, so one of the two is whole at any moment. Maps of its files
    stay valid. None: None. Raises SearchError where `folder` is something else than an index.
    """
    if folder is None:
        yield None
        return
    with checksums.replacing(Path(folder).absolute(), _HEAD) as fresh:
        yield fresh


def write(index: IndexParts, folder: Path, store_is_there: bool = False) -> None:
    """Writes the files of an index; the head with the checksums comes last."""
    if not store_is_there:
        index.store.write(folder / VECTORS)
    if index.structure is not None:
        index.structure.write(folder / _STRUCTURE)
    np.save(folder / _ITEMS, index.ids.items)
    np.save(folder / _ALIVE, index.ids.alive)
    for name, column in index.partitions.columns.items():
        np.save(folder / f"label_{name}.npy", column)
    head = {
        "version": VERSION,
        "config": configs.to_dict(index.config),
        "reason": index.reason,
        "dim": index.store.dim,
        "slots": index.ids.slots,
        "labels": list(index.partitions.names),
        "files": checksums.marks_of(folder),
    }
    (folder / _HEAD).write_text(json.dumps(head, indent=2) + "\n")


def read(folder: str | Path, *, mmap: bool = True, verify: bool = True) -> tuple[IndexParts, Path]:
    """The index in a folder, and the folder that holds it.

    mmap: vectors and codes stay in their files, which are read where a search needs them.

    Raises SearchError for a missing or damaged file (by size, and by SHA-256 unless `verify` is off, which spares a
    reading of all bytes), and for a folder of another version.
    """
    folder = _whole(folder)
    head = checksums.read_head(folder, _HEAD, VERSION, verify)
    config = configs.from_dict(IndexConfig, head["config"])
    slots, dim = head["slots"], head["dim"]
    store = VectorStore.map_file(folder / VECTORS, dim, config.store, slots, mmap)
    structure = None
    if _STRUCTURE in head["files"]:
        structure = Structure.read(config, folder / _STRUCTURE, mmap)
        if len(structure) != slots:
            raise SearchError(
                f"{folder}: {len(structure)} codes for {slots} vectors; build it again"
            )
    ids = ItemIds(np.load(folder / _ITEMS), np.load(folder / _ALIVE))
    labels = {name: np.load(folder / f"label_{name}.npy") for name in head["labels"]}
    parts = IndexParts(config, head["reason"], store, ids, Partitions(labels, slots), structure)
    return parts, folder


def own_structure(config: IndexConfig, folder: str | Path) -> Structure:
    """The structure of a memory-mapped index, read into memory so that it can be added to."""
    return Structure.read(config, _whole(folder) / _STRUCTURE, mmap=False)


# ------------------------------------------------------------------------------------------ inside


def _whole(folder: Any) -> Path:
    whole = files.whole_folder(folder, _HEAD)
    if whole is None:
        raise SearchError(f"there is no index in {Path(folder).absolute()} (no {_HEAD})")
    return whole

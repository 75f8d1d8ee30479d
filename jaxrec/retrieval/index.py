"""Floor 2: an index of items by their vectors: build, search, add, remove. Folders are `index_folder.py`'s.

An item is any int64 of the caller's; inside, its vector has a slot. FAISS proposes slots (`structure.py`), the
store of whole vectors re-scores them exactly (`vector_store.py`), labels restrict what may be found
(`partitions.py`). What is too few to be worth a structure, a small tenant for instance, is compared one by one.
"""

import contextlib
import copy
import dataclasses
import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from jaxrec.retrieval import exact, index_choice, index_folder, top_k
from jaxrec.retrieval.index_choice import IndexConfig
from jaxrec.retrieval.index_folder import IndexParts
from jaxrec.retrieval.item_ids import ItemIds
from jaxrec.retrieval.partitions import Partitions, Selection, Where
from jaxrec.retrieval.structure import Structure, brute_force, sample_of
from jaxrec.retrieval.top_k import SearchError
from jaxrec.retrieval.vector_blocks import BLOCK, blocks_of, items_of, prepare_block
from jaxrec.retrieval.vector_store import VectorStore
from jaxrec.types import Shortlist

_log = logging.getLogger(__name__)
SCAN_ROWS = 10_000  # a restricted search over this many items or fewer compares them all
_WIDER = 8

Block = Float[np.ndarray, "I D"]


class Index:
    """Made by `Index.build` or `Index.load`. Searches may run in several threads; changes may not run beside them.

    config: resolved, what `choose` left nothing open in. reason: one line that says what was chosen and why.
    """

    def __init__(self, parts: IndexParts, path: Path | None = None):
        self.config, self.reason, self.path = parts.config, parts.reason, path
        self._store, self._ids, self._partitions = parts.store, parts.ids, parts.partitions
        self._structure = parts.structure

    # -------------------------------------------------------------------------------- making

    @classmethod
    def build(
        cls,
        vectors: Block | Iterable[Block] | Iterable[tuple[np.ndarray, Block]],
        ids: np.ndarray | None = None,
        labels: Mapping[str, np.ndarray] | None = None,
        config: IndexConfig | None = None,
        folder: str | Path | None = None,
        progress: bool = False,
    ) -> "Index":
        """An index of an array, a memory map, or blocks [n, D] that come one by one, alone or as (ids, block).

        Each vector passes twice: into the store, then, when the cells are trained on a sample of the store, into the
        structure; so nothing of the input's size is held beside the store. With `folder` the store is a file of that
        folder from the start, and the finished index is saved there. ids: 0, 1, ... without; labels: a whole number
        for each item, by name ("tenant", "category"), in the order of the vectors.

        config: the structure and its sizes. progress: a bar on stderr.

        Raises SearchError for vectors that are not finite or differ in width, ids that repeat, and a config
        that does not fit.
        """
        config = config or IndexConfig()
        whole = vectors if isinstance(vectors, np.ndarray) else None
        blocks, dim = blocks_of(vectors)
        expected = len(whole) if whole is not None else 0
        # The store's type is settled before blocks that nobody has counted are read.
        made = index_choice.choose(expected, dim, config)[0] if whole is not None else config
        dtype = index_choice.store_type(made)
        with index_folder.writing(folder) as fresh:
            path = fresh / index_folder.VECTORS if fresh is not None else None
            store = VectorStore(dim, dtype, rows=expected, path=path)
            items: list[np.ndarray] = []
            bar = tqdm(desc="vectors", total=expected or None, unit="row", disable=not progress)
            with bar, contextlib.closing(store):
                for given, block_ID in blocks:
                    block_ID = prepare_block(block_ID, dim, made.metric, first=len(store))
                    store.append(block_ID)
                    if given is not None:
                        items.append(np.asarray(given, np.int64))
                    bar.update(len(block_ID))
                store.finish()
            n = len(store)
            item_I = items_of(ids, items, n)
            made, reason = index_choice.choose(n, dim, config)
            made = dataclasses.replace(made, store=dtype)
            _log.info("index: %s", reason)
            partitions = Partitions(labels or {}, n)
            structure = _structure(made, store, progress)
            parts = IndexParts(made, reason, store, ItemIds(item_I), partitions, structure)
            if fresh is not None:
                index_folder.write(parts, fresh, store_is_there=True)
        return cls.load(folder, verify=False) if folder is not None else cls(parts)

    @classmethod
    def load(cls, folder: str | Path, mmap: bool = True, verify: bool = True) -> "Index":
        """The index that `save` wrote; `index_folder.read` says what is checked."""
        parts, path = index_folder.read(folder, mmap=mmap, verify=verify)
        return cls(parts, path)

    def save(self, folder: str | Path) -> Path:
        """Writes the whole index to a folder, whole or not at all; an older one there is replaced."""
        with index_folder.writing(folder) as fresh:
            index_folder.write(self._parts(), fresh)
        self.path = Path(folder).absolute()
        return self.path

    def compact(
        self, config: IndexConfig | None = None, folder: str | Path | None = None
    ) -> "Index":
        """A new index of the living items, without the slots of removed ones; `config`: of another kind."""
        alive = self._ids.alive
        blocks = (
            (self._ids.items[start : start + len(b)][keep], b[keep])
            for start, b in self._store.blocks(BLOCK)
            for keep in [alive[start : start + len(b)]]
        )
        labels = {name: column[alive] for name, column in self._partitions.columns.items()}
        first = [(np.zeros(0, np.int64), np.zeros((0, self.dim), np.float32))]
        config = config or dataclasses.replace(self.config, nlist=0, nprobe=0, train_rows=0)
        return Index.build(
            itertools.chain(first, blocks), labels=labels, config=config, folder=folder
        )

    def with_search(self, **changes: Any) -> "Index":
        """The same structure and store, searched otherwise: nprobe, ef, candidates, threads, gpu. Nothing is copied.

        Changes of items must go through one of the two alone.
        """
        allowed = {"nprobe", "ef", "candidates", "threads", "gpu"}
        if wrong := sorted(set(changes) - allowed):
            raise SearchError(
                f"{wrong[0]} is fixed when an index is built; {sorted(allowed)} are not"
            )
        other = copy.copy(self)
        other.config = dataclasses.replace(self.config, **changes)
        return other

    def _parts(self) -> IndexParts:
        return IndexParts(
            self.config, self.reason, self._store, self._ids, self._partitions, self._structure
        )

    # -------------------------------------------------------------------------------- what it is

    def __len__(self) -> int:
        """Living items."""
        return len(self._ids)

    @property
    def dim(self) -> int:
        """The width of the vectors."""
        return self._store.dim

    @property
    def items(self) -> Int[np.ndarray, " I"]:
        """The living items in the order of their slots."""
        return self._ids.items[self._ids.alive]

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes of the structure (codes and links, estimated from its config) and of the store."""
        per_row = {"none": 4 * self.dim, "fp16": 2 * self.dim, "sq8": self.dim}
        per_row |= {"sq4": self.dim // 2, "pq": self.config.m, "pq_fast": self.config.m // 2}
        per_row |= {"rabitq": self.dim // 8 + 8}
        size = 0
        if self._structure is not None:
            extra = {"ivf": 8, "hnsw": 8 * self.config.links}.get(self.config.kind, 0)
            size = len(self._structure) * (per_row[self.config.code] + extra)
            size += self.config.nlist * self.dim * 4
        return {"structure": size, "store": self._store.nbytes}

    def vectors(self, items: Int[np.ndarray, "*b"]) -> Float[np.ndarray, "*b D"]:
        """float32 vectors as they are stored (unit length for cosine); zeros for item -1.

        Raises SearchError for an item that is not here.
        """
        items = np.asarray(items, np.int64)
        slots = self._ids.slots_of(items).reshape(-1)
        lost = (slots < 0) & (items.reshape(-1) != -1)
        if lost.any():
            raise SearchError(f"item {items.reshape(-1)[lost][0]} is not in the index")
        out = np.zeros((slots.size, self.dim), np.float32)
        out[slots >= 0] = self._store.rows(slots[slots >= 0])
        return out.reshape(*items.shape, self.dim)

    # -------------------------------------------------------------------------------- changing

    def add(
        self,
        vectors_ID: Block,
        ids: np.ndarray,
        labels: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """New items (removed ones may come back). All are checked before the first one is added.

        Raises SearchError for an item that is here, labels that are missing, vectors that do not fit. An index that is
        memory-mapped is read into memory first.
        """
        ids = np.asarray(ids, np.int64)
        if len(ids) != len(vectors_ID):
            raise SearchError(f"{len(vectors_ID)} vectors, but {len(ids)} ids")
        if (ids < 0).any():
            raise SearchError(f"item {ids[ids < 0][0]} is negative; -1 stands for no item")
        block_ID = prepare_block(vectors_ID, self.dim, self.config.metric)
        # All checks come before the first change: store, structure, ids and labels must never disagree about a
        # slot.
        self._ids.check_new(ids)
        self._partitions.check_new(labels or {}, len(ids))
        if self._structure is not None and self._structure.readonly:
            self._structure = index_folder.own_structure(self.config, self.path)
        self._store.append(block_ID)
        if self._structure is not None:
            self._structure.add(block_ID)
        self._ids.add(ids)
        self._partitions.add(labels or {}, len(ids))

    def remove(self, ids: Int[np.ndarray, " I"]) -> int:
        """Items that are never found again; returns how many of them were here. `compact` frees their room."""
        gone = self._ids.remove(np.asarray(ids, np.int64))
        self._partitions.forget()
        return len(gone)

    # -------------------------------------------------------------------------------- searching

    def search(
        self, q_BD: Float[np.ndarray, "B D"], k: int, where: Where | None = None
    ) -> Shortlist:
        """The k best items for each query, with their exact scores, best first; equal ones by the smaller item.

        where: labels by name, `{"tenant": 3, "category": [1, 2]}`: only items that have one of the labels in each
        column are found. Fewer than k such items: item -1, score -inf at the end. Cosine: a query of zeros scores 0
        with everything. Raises SearchError for a wrong width, numbers that are not finite, k < 1, unknown names.
        """
        if k < 1:
            raise SearchError(f"k is {k}; it is at least 1")
        q_BD = prepare_block(q_BD, self.dim, self.config.metric, what="query")
        chosen = self._partitions.select(where, self._ids.alive)
        n = self._ids.slots if chosen is None else len(chosen)
        if n == 0 or not len(q_BD):
            nothing = np.full((len(q_BD), 0), -1, np.int64)
            return top_k.best(nothing, np.zeros(nothing.shape, np.float32), k)
        if self._structure is None or (chosen is not None and n <= max(SCAN_ROWS, k)):
            return self._compare_all(q_BD, k, chosen)
        found = self._proposed(q_BD, k, chosen, self.config)
        short_B = (found.items_BJ >= 0).sum(1) < min(k, n)
        if (
            short_B.any()
        ):  # a narrow tenant far from its queries: look further, in the end everywhere
            wide = dataclasses.replace(
                self.config,
                nprobe=min(max(self.config.nprobe * _WIDER, 1), max(self.config.nlist, 1)),
                ef=max(self.config.ef * _WIDER, k),
                candidates=max(self.config.candidates, k) * _WIDER,
            )
            again = self._proposed(q_BD[short_B], k, chosen, wide)
            found.items_BJ[short_B], found.scores_BJ[short_B] = again.items_BJ, again.scores_BJ
            short_B = (found.items_BJ >= 0).sum(1) < min(k, n)
        if short_B.any():
            again = self._compare_all(q_BD[short_B], k, chosen)
            found.items_BJ[short_B], found.scores_BJ[short_B] = again.items_BJ, again.scores_BJ
        return found

    def _proposed(
        self, q_BD: np.ndarray, k: int, chosen: Selection | None, config: IndexConfig
    ) -> Shortlist:
        """Candidates of the structure, those outside of the selection dropped, the rest scored from the store."""
        count = max(config.candidates, k)
        bits = None if chosen is None else chosen.bits
        if chosen is not None:  # of what is met on the way fewer count, so the way is longer
            longer = min(_WIDER, self._ids.slots / len(chosen))
            config = dataclasses.replace(
                config, ef=int(config.ef * longer), nprobe=int(config.nprobe * longer**0.5)
            )
        if chosen is not None and not self._structure.takes_selector():
            # It answers for all slots: ask for so many that enough of the chosen ones are among them.
            count = min(self._ids.slots, int(count * self._ids.slots / len(chosen) * 1.5) + 1)
        slots_BJ = self._structure.search(q_BD, count, config, bits)
        keep_BJ = slots_BJ >= 0
        if chosen is not None:
            keep_BJ &= chosen.mask_I[slots_BJ]
        slots_BJ = np.where(keep_BJ, slots_BJ, -1)
        scores_BJ = np.full(slots_BJ.shape, -np.inf, np.float32)
        for q_D, slots, scores in zip(q_BD, slots_BJ, scores_BJ, strict=True):
            here = slots >= 0
            # The structure's own scores are those of its codes; these are exact, and they alone decide.
            scores[here] = self._store.rows(slots[here]) @ q_D
        return self._named(slots_BJ, scores_BJ, k)

    def _compare_all(self, q_BD: np.ndarray, k: int, chosen: Selection | None) -> Shortlist:
        """Exact search over the store, or over the chosen slots of it."""
        if chosen is not None and len(chosen) <= max(SCAN_ROWS, self._ids.slots // 4):
            parts = []
            for at in range(0, len(chosen), BLOCK):
                slots = chosen.slots[at : at + BLOCK]
                found = exact.ExactSearch(self._store.rows(slots)).search(q_BD, k)
                parts.append(
                    self._named(
                        np.where(found.items_BJ < 0, -1, slots[found.items_BJ]), found.scores_BJ, k
                    )
                )
            return top_k.merge(parts, k)
        parts = []
        for start, piece in self._store.pieces():
            if self.config.kind == "flat" and chosen is None and piece.dtype == np.float32:
                rows_BJ, scores_BJ = brute_force(piece, q_BD, k, self.config)
            else:
                mask_I = None if chosen is None else chosen.mask_I[start : start + len(piece)]
                found = exact.ExactSearch(piece).search(q_BD, k, mask_I)
                rows_BJ, scores_BJ = found.items_BJ, found.scores_BJ
            parts.append(self._named(np.where(rows_BJ < 0, -1, rows_BJ + start), scores_BJ, k))
        return top_k.merge(parts, k)

    def _named(self, slots_BJ: np.ndarray, scores_BJ: np.ndarray, k: int) -> Shortlist:
        """Slots as items, the best k of them."""
        items_BJ = np.where(slots_BJ < 0, -1, self._ids.items[slots_BJ])
        return top_k.best(items_BJ, scores_BJ, k)


# ------------------------------------------------------------------------------------------ inside


def _structure(config: IndexConfig, store: VectorStore, progress: bool) -> Structure | None:
    """What FAISS holds of the store: nothing where all vectors are compared."""
    if config.kind == "exact" or (config.kind == "flat" and config.code == "none"):
        return None
    rows = config.train_rows
    sample_JD = sample_of(store.blocks(BLOCK), len(store), rows, store.dim, config.seed)
    structure = Structure.train(config, sample_JD)
    del sample_JD
    with tqdm(desc="index", total=len(store), unit="row", disable=not progress) as bar:
        for _, block_ID in store.blocks(BLOCK):
            structure.add(block_ID)
            bar.update(len(block_ID))
    return structure


def search_shards(
    shards: Sequence[Index],
    q_BD: Float[np.ndarray, "B D"],
    k: int,
    where: Where | None = None,
    *,
    threads: int = 1,
) -> Shortlist:
    """The k best items over all shards: the same as one index over all of their items, if each shard is exact.

    threads: how many shards are searched at a time (each search uses FAISS's own threads besides). An item that lies
    in two shards is returned once, with its better score. Raises SearchError for shards of different widths.
    shards: indexes of parts of the items. q_BD: the queries. where: which labels an item must have.
    """
    if not shards:
        raise SearchError("there are no shards to search")
    widths = sorted({shard.dim for shard in shards})
    if len(widths) > 1:
        raise SearchError(f"the shards' vectors have different widths: {widths}")
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(lambda shard: shard.search(q_BD, k, where), shards))
    else:
        parts = [shard.search(q_BD, k, where) for shard in shards]
    return top_k.merge(parts, k)

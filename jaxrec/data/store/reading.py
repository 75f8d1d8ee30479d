"""A store as a source of batches: the rows that a file of the same content would give, read when they are needed.

    opened = open_stores(("runs/a", "s3://bucket/b"), kind="chats", length=256)
    opened.check_writing(writing_hash(chat))
    source = opened.source(rows, seed=0, share=mesh.process_rows(mesh, rows))

Without weights the rows of several stores are one set, shuffled as one. With weights ("runs/a=0.7", "s3://bucket/b=0.3")
each batch is filled from the stores in these shares, each store being shuffled, and begun again, by itself.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrec.data.row_layouts import check_row
from jaxrec.data.source import ArraySource, Prefetch, State
from jaxrec.data.store.arrays import StoredArray
from jaxrec.data.store.manifest import (
    Manifest,
    Shard,
    held_name,
    is_store,
    manifest_of,
    rows_name,
)
from jaxrec.data.store.place import Place, StoreError
from jaxrec.data.store.row_kinds import rows_of
from jaxrec.data.text import BytePairTokenizer
from jaxrec.files import content_hash
from jaxrec.structs import Pairs, Tokens

_OPEN = 256  # shards that are kept open
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: its multiples fall evenly


class StoredRows:
    """The token rows of one or several stores as one array that lies elsewhere: `rows[index]` reads them.

    Of texts and chats a row is `Tokens`, of pairs `Pairs`, as the readers in memory give them. Reading raises
    StoreError for what is missing or damaged.

    columns: further fields of `Pairs`, a number for each row, which lie in memory.
    """

    def __init__(
        self,
        stores: Sequence[tuple[Place, Manifest]],
        columns: Mapping[str, np.ndarray] | None = None,
    ):
        self.stores, self.columns = tuple(stores), dict(columns or {})
        self.pairs = stores[0][1].plan.kind == "pairs"
        self._shards: list[tuple[Place, int, Shard]] = [
            (place, number, shard)
            for place, manifest in stores
            for number, shard in enumerate(manifest.shards)
            if shard.rows
        ]
        self._starts = np.cumsum([0, *(shard.rows for *_, shard in self._shards)])
        self._open: dict[int, StoredArray] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def identity(self) -> np.ndarray:
        """A hash of all rows, as an array; what the manifests say, so that nothing is read for it."""
        sums = [manifest.identity for _, manifest in self.stores]
        return np.frombuffer(content_hash(*sums, *self.columns.values()).encode(), np.uint8)

    def with_columns(self, columns: Mapping[str, np.ndarray]) -> "StoredRows":
        """The same rows with further fields, by name."""
        return StoredRows(self.stores, self.columns | dict(columns))

    def __getitem__(self, index: np.ndarray) -> Tokens | Pairs:
        planes = self.planes(np.asarray(index))
        if not self.pairs:
            return Tokens(**rows_of(planes))
        sides = (rows_of(planes[:, at : at + 2]) for at in (0, 2))
        tokens = (Tokens(one["ids_BL"], one["mask_BL"], one["loss_BL"]) for one in sides)
        return Pairs(*tokens, **{name: column[index] for name, column in self.columns.items()})

    def planes(self, index: np.ndarray) -> np.ndarray:
        """[N, F, L] int32 of rows in any order. All shards are asked before any is waited for."""
        which = np.searchsorted(self._starts, index, side="right") - 1
        asked = []
        for number in np.unique(which):
            at = np.flatnonzero(which == number)
            array = self._array(int(number))
            asked.append((at, array, array.ask(index[at] - self._starts[number])))
        shape = self._shards[0][2].arrays["tokens"]["shape"][1:]
        out = np.empty((len(index), *shape), np.int32)
        for at, array, one in asked:
            out[at] = array.answer(one)
        return out

    def _array(self, number: int) -> StoredArray:
        if number not in self._open:
            if len(self._open) >= _OPEN:  # the one that was opened first
                self._open.pop(next(iter(self._open)))
            place, own, shard = self._shards[number]
            about = shard.arrays["tokens"]
            self._open[number] = StoredArray(
                place, rows_name(own, "tokens"), about["shape"], about["dtype"]
            )
        return self._open[number]


@dataclasses.dataclass(frozen=True)
class StoredSide:
    """One side of a store of pairs: "chosen" or "rejected"."""

    rows: StoredRows
    name: str

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: np.ndarray) -> Tokens:
        return getattr(self.rows[index], self.name)

    @property
    def identity(self) -> np.ndarray:
        """The hash of the rows."""
        return self.rows.identity


class StoredSource(ArraySource):
    """`ArraySource` over rows that are made when they are asked for: the same order, the same state.

    arrays: anything with a length, `identity`, and rows by `[index]`: `StoredRows`, `PackedHistories`.
    """

    def content(self) -> np.ndarray:
        """The hash of the rows; they themselves are not read for it."""
        return self.arrays.identity

    def take(self, picked: np.ndarray) -> Any:
        """Rows by their numbers."""
        return self.arrays[picked]


class Mixture:
    """Batches filled from several sets of rows in fixed shares.

    Which set the n-th row of the run comes from is a function of n and the seed: multiples of the golden ratio, whose
    counts stay within a row or two of the shares. Each set is shuffled, and begun anew, by itself.
    state = {"seed", "position" (rows handed out), "epochs" [K], "positions" [K] (of each set)}

    sets: rows. weights: a share of each. rows: of a batch. seed: of all orders. share: the rows of this process.
    """

    def __init__(
        self,
        sets: Sequence[StoredRows],
        weights: Sequence[float],
        rows: int,
        *,
        seed: int = 0,
        share: slice | None = None,
    ):
        self.rows, self.seed, self.share = rows, seed, share or slice(0, rows)
        self.sources = [StoredSource(one, rows, seed=seed + k) for k, one in enumerate(sets)]
        total = np.cumsum(np.asarray(weights, np.float64))
        self.upto = total[:-1] / total[-1]

    def init(self) -> State:
        """The state before the first batch."""
        nothing = np.zeros(len(self.sources), np.int64)
        start = {"seed": np.asarray(self.seed), "position": np.asarray(0)}
        return start | {"epochs": nothing, "positions": nothing.copy()}

    def content(self) -> list[np.ndarray]:
        """The hashes of the sets, and their shares: a resume with others is another run."""
        return [*(source.content() for source in self.sources), self.upto]

    def __call__(self, step: int, params: Any, state: State) -> tuple[Any, State]:
        """This process's rows of the next batch, and the state after it."""
        del step, params
        seed, position = int(state["seed"]), int(state["position"])
        from_B = self.drawn(seed, position)
        mine = slice(*self.share.indices(self.rows))
        epochs, positions = np.array(state["epochs"]), np.array(state["positions"])
        parts, places = [], []
        for k, source in enumerate(self.sources):
            at = np.flatnonzero(from_B == k)
            own = (at >= mine.start) & (at < mine.stop)
            picked = source.pick(seed + k, int(epochs[k]), int(positions[k]), len(at))[own]
            if len(picked):
                parts.append(source.take(picked))
                places.append(at[own])
            done = int(positions[k]) + len(at)
            epochs[k] += done // source.size
            positions[k] = done % source.size
        order = np.argsort(np.concatenate(places))
        joined = _joined(parts, order)
        after = {"seed": np.asarray(seed), "position": np.asarray(position + self.rows)}
        return joined, after | {"epochs": epochs, "positions": positions}

    def drawn(self, seed: int, position: int) -> np.ndarray:
        """[rows]: the set that each row of the batch at `position` comes from."""
        start = np.random.SeedSequence([seed, len(self.sources)]).generate_state(1, np.uint64)[0]
        nth = np.arange(position, position + self.rows, dtype=np.uint64)
        chance = (nth * np.uint64(_GOLDEN) + start).astype(np.float64) / 2.0**64
        return np.searchsorted(self.upto, chance, side="right")


@dataclasses.dataclass(frozen=True)
class OpenStores:
    """Stores that fit what is asked of them: a set of rows each, and their weights (none: all rows are one set)."""

    names: tuple[str, ...]
    stores: tuple[tuple[Place, Manifest], ...]
    weights: tuple[float, ...] = ()

    @property
    def rows(self) -> StoredRows:
        """All rows as one set."""
        return StoredRows(self.stores)

    def source(self, rows: int, *, seed: int = 0, share: slice | None = None) -> Prefetch:
        """Batches of `rows` rows, made on a thread ahead of time. seed: of the order. share: of this process."""
        if self.weights:
            sets = [StoredRows([one]) for one in self.stores]
            return Prefetch(Mixture(sets, self.weights, rows, seed=seed, share=share))
        return Prefetch(StoredSource(self.rows, rows, seed=seed, share=share))

    def check_writing(self, writing: str) -> None:
        """Raises StoreError where a store was written by another tokenizer or format than `writing` is the hash of."""
        for name, (_, manifest) in zip(self.names, self.stores, strict=True):
            if manifest.plan.writing != writing:
                raise StoreError(
                    f"{name} was written by another tokenizer or chat format than the model's: make it again with the"
                    " model's own"
                )

    def tokenizer(self) -> BytePairTokenizer:
        """The tokenizer that the first store of texts brings along."""
        place = self.stores[0][0]
        return BytePairTokenizer.of(place.read_all(["tokenizer.json"])[0].decode())

    def held(self) -> list[tuple[str, Any]]:
        """(place, row) of the rows that were held out, as they stood in the sources."""
        found = []
        for name, (place, manifest) in zip(self.names, self.stores, strict=True):
            there = [held_name(n) for n, shard in enumerate(manifest.shards) if shard.held]
            lines = [x for part in place.read_all(there) for x in part.decode().split("\n") if x]
            found += [(f"{name}[held {n}]", json.loads(line)) for n, line in enumerate(lines)]
        for _, row in found:
            check_row(row)
        return found

    def said(self) -> str:
        """Lines that say what is read: rows and tokens, and what was dropped when they were made."""
        lines = []
        for name, (_, manifest) in zip(self.names, self.stores, strict=True):
            lines.append(
                f"{name}: {manifest.rows:,} rows, {manifest.tokens:,} tokens in {len(manifest.shards)} shards"
            )
            lines += [f"{name}: {line}" for line in manifest.dropped()]
        return "\n".join(lines)


def all_stores(sources: Sequence[str]) -> bool:
    """Whether sources are stores, all of them. Raises StoreError where some are and others are files."""
    stores = [is_store(_weighed(source)[0]) for source in sources]
    if any(stores) and not all(stores):
        file = sources[stores.index(False)]
        raise StoreError(
            f"{file} is no store, and the others are: make one of it (jaxrec data tokenise), or leave one of them out"
        )
    if not any(stores) and (heavy := [one for one in sources if _weighed(one)[1] is not None]):
        raise StoreError(
            f"{heavy[0]}: only stores have weights, files are read one after the other"
        )
    return bool(sources) and all(stores)


def open_stores(sources: Sequence[str], kind: str, length: int, **settings: Any) -> OpenStores:
    """Opens stores and sees whether they are what a stage can learn from.

    Args:
      sources: folders and URLs, each as it is or as "PLACE=WEIGHT".
      kind: texts, chats, pairs or histories. length: tokens of a row; 0: whatever they have.
      settings: what else must be as the store's plan says it (learn, too_long).

    Raises StoreError in one line: half written, of another kind, length or setting, empty, or out of reach.
    """
    names, weights = zip(*map(_weighed, sources), strict=True)
    some = [weight for weight in weights if weight is not None]
    if some and len(some) < len(weights):
        raise StoreError("some stores have weights and others none: give each one, or none")
    if some and min(some) <= 0:
        raise StoreError("the weight of a store is above 0: leave it out otherwise")
    opened = []
    for name in names:
        place = Place(name)
        manifest = manifest_of(place)
        _fits(name, manifest, kind, length, settings)
        opened.append((place, manifest))
    return OpenStores(tuple(names), tuple(opened), tuple(some))


def _fits(name: str, manifest: Manifest, kind: str, length: int, settings: dict[str, Any]) -> None:
    plan = manifest.plan
    if plan.kind != kind:
        raise StoreError(f"{name} is a store of {plan.kind}, this stage learns from {kind}")
    if length and plan.length != length:
        raise StoreError(
            f"{name} has rows of {plan.length} tokens, and --length says {length}: set it to {plan.length}, or make"
            " the store again"
        )
    for key, asked in settings.items():
        if plan.settings.get(key) != asked:
            raise StoreError(
                f"{name} was made with {key}={plan.settings.get(key)!r}, and this run asks for {asked!r}"
            )
    if not manifest.rows:
        raise StoreError(
            f"{name} holds no row; {'; '.join(manifest.dropped()) or 'its source is empty'}"
        )


def _weighed(source: str) -> tuple[str, float | None]:
    """("PLACE", weight) of "PLACE=WEIGHT"; the weight is None where none is named."""
    place, _, weight = source.rpartition("=")
    try:
        return (place, float(weight)) if place else (source, None)
    except ValueError:
        return source, None


def _joined(parts: Sequence[Any], order: np.ndarray) -> Any:
    import jax

    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[order], *parts)

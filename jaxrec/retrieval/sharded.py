"""Floor 2: an index in shards, each built and searched by itself: partition, parallel search, merge.

    python -m jaxrec.retrieval.sharded --vectors runs/catalog --out runs/index --shards 8 --cluster auto
    python -m jaxrec.retrieval.sharded --out runs/index --queries queries.npy --k 10 --found found.npz --cluster auto

VECTORS is a folder of `embed_catalog` or a .npy of [items, width]; item i is row i. Shard s holds a run of rows and is
an index folder like any other (OUT/shard-00000); OUT/shards.json comes last. A build that was killed goes on from the
shards that are whole. On a cluster (auto, HOST:PORT, ray://HOST:PORT; local:2 for two workers of this machine) every
machine sees VECTORS and OUT under the same paths.

    OUT/shards.json       what it was made from, and the shards with their first rows
    OUT/shard-00000/      an index, as `Index.save` writes it
    FOUND.npz             items [queries, k] and scores, best first; item -1 where there are fewer
"""

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxrec import config as configs
from jaxrec import files
from jaxrec.cluster import map_shards
from jaxrec.retrieval import catalog_vectors, top_k
from jaxrec.retrieval.index import Index
from jaxrec.retrieval.index_choice import IndexConfig
from jaxrec.retrieval.top_k import SearchError
from jaxrec.retrieval.vector_blocks import BLOCK
from jaxrec.types import Shortlist

_HEAD = "shards.json"


class Rows(NamedTuple):
    """A shard: its number and its rows start..stop."""

    number: int
    start: int
    stop: int


def build_shards(
    vectors: str | Path,
    folder: str | Path,
    shards: int,
    config: IndexConfig | None = None,
    *,
    address: str = "",
    progress: bool = False,
) -> list[Path]:
    """Builds an index of each of so many runs of rows; the folders of the shards.

    vectors: a folder of `embed_catalog`, or a .npy of floats. folder: where they go. shards: how many, of sizes that
    differ by one row. config: of each, None the defaults; "auto" is chosen by a shard's own size. address: of a cluster
    whose workers build a shard each. progress: a bar on stderr.

    Raises SearchError for vectors that can't be read, more shards than rows, and a folder of other vectors or settings;
    ShardError for a shard that can't be built.
    """
    vectors, folder = Path(vectors).absolute(), Path(folder).absolute()
    config = config or IndexConfig()
    n, mark = _measured(vectors)
    if not 1 <= shards <= max(n, 1):
        raise SearchError(f"{shards} shards of {n:,} vectors: each holds one at least")
    made_from = {"vectors": mark, "shards": shards, "config": configs.to_dict(config)}
    _refuse_others(folder, made_from)
    edges = [n * s // shards for s in range(shards + 1)]
    runs = [Rows(s, edges[s], edges[s + 1]) for s in range(shards)]
    for _ in map_shards(
        functools.partial(_build, vectors, folder, config), runs,
        address=address, keep=folder / "finished", mark=files.content_hash(repr(made_from)),
        name=lambda _, rows: f"shard {rows.number} (rows {rows.start}-{rows.stop - 1})",
        progress="shards" if progress else "",
    ):  # fmt: skip
        pass
    first = [rows.start for rows in runs]
    files.write_json(folder / _HEAD, {"made_from": made_from, "items": n, "first": first})
    return [_shard(folder, s) for s in range(shards)]


def search_folder(
    folder: str | Path,
    q_BD: Float[np.ndarray, "B D"],
    k: int,
    *,
    address: str = "",
    progress: bool = False,
) -> Shortlist:
    """The k best items over all shards that `build_shards` wrote: of one index over all, where each shard is exact.

    folder: of the shards. q_BD: queries. k: items a query. address: of a cluster whose workers search a shard each.
    progress: a bar on stderr. Raises SearchError for a folder without all shards, and as `Index.search`.
    """
    folder = Path(folder).absolute()
    head = _head(folder)
    if head is None:
        raise SearchError(f"there are no finished shards in {folder} (no {_HEAD})")
    found = map_shards(
        functools.partial(_search, np.ascontiguousarray(q_BD), k),
        [str(_shard(folder, s)) for s in range(len(head["first"]))],
        address=address,
        name=lambda _, shard: Path(shard).name,
        progress="shards" if progress else "",
    )
    best: Shortlist | None = None
    for items_BK, scores_BK in found:  # merged as they come: a thousand shards are held as two
        part = Shortlist(np.asarray(items_BK), np.asarray(scores_BK))
        best = part if best is None else top_k.merge([best, part], k)
    return best


# ------------------------------------------------------------------------------------------ inside


def _build(vectors: Path, folder: Path, config: IndexConfig, rows: Rows) -> dict[str, int]:
    """One shard's index, written whole or not at all."""
    blocks = ((np.arange(at, at + len(b)), b) for at, b in _blocks(vectors, rows))
    index = Index.build(blocks, config=config, folder=_shard(folder, rows.number))
    return {"items": len(index)}


def _search(q_BD: np.ndarray, k: int, shard: str) -> tuple[np.ndarray, np.ndarray]:
    found = Index.load(shard, verify=False).search(q_BD, k)
    return found.items_BJ, found.scores_BJ


def _blocks(vectors: Path, rows: Rows) -> Iterator[tuple[int, np.ndarray]]:
    read: Any
    if vectors.is_dir():
        read = catalog_vectors.open_vectors(vectors).read
    else:
        mapped_ID = np.load(vectors, mmap_mode="r")
        read = lambda start, stop: np.asarray(mapped_ID[start:stop])
    for at in range(rows.start, rows.stop, BLOCK):
        yield at, read(at, min(at + BLOCK, rows.stop))


def _measured(vectors: Path) -> tuple[int, str]:
    """How many vectors there are, and a mark by which they are known again (not of every byte: they may be many)."""
    if vectors.is_dir():
        kept = catalog_vectors.open_vectors(vectors)
        blocks = files.file_hash(vectors / "blocks.jsonl")
        return len(kept), f"{kept.encoder} {kept.dim} {kept.dtype} {blocks}"
    try:
        array = np.load(vectors, mmap_mode="r")
    except FileNotFoundError:
        raise SearchError(f"there are no vectors {vectors}") from None
    except (ValueError, EOFError, OSError) as error:
        raise SearchError(f"{vectors} is no array of numpy's: {error}") from None
    if array.ndim != 2 or array.dtype.kind != "f":
        raise SearchError(f"{vectors} holds {array.dtype} {array.shape}, not floats [items, width]")
    stat = vectors.stat()
    return len(array), f"{array.shape} {array.dtype} {stat.st_size} {stat.st_mtime_ns}"


def _shard(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}"


def _head(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / _HEAD).read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise SearchError(f"{folder / _HEAD} is damaged: {error}") from None


def _refuse_others(folder: Path, made_from: dict[str, Any]) -> None:
    head = _head(folder)
    if head is not None and head.get("made_from") != made_from:
        raise SearchError(
            f"{folder} holds shards of other vectors or settings: remove it, or name another"
        )


# ------------------------------------------------------------------------------------------ the command


@dataclasses.dataclass(frozen=True)
class ShardedConfig:
    """What is built, and what is sought in it."""

    vectors: str = ""  # build shards of these; "": they are there
    out: str = "runs/index"
    shards: int = 8
    index: IndexConfig = IndexConfig()
    queries: str = ""  # a .npy of [queries, width]
    k: int = 10
    found: str = "found.npz"
    cluster: str = ""  # the workers: auto, HOST:PORT, ray://HOST:PORT, local:N; "": this process


def main(cfg: ShardedConfig) -> Shortlist | None:
    """Builds, searches, or both. Raises SearchError as `build_shards` and `search_folder`, and with nothing to do."""
    if not cfg.vectors and not cfg.queries:
        raise SearchError("name --vectors to build shards of, or --queries to search them by")
    if cfg.vectors:
        where = build_shards(
            cfg.vectors, cfg.out, cfg.shards, cfg.index, address=cfg.cluster, progress=True
        )
        print(f"wrote {len(where)} shards to {cfg.out}")
    if not cfg.queries:
        return None
    _measured(Path(cfg.queries))
    best = search_folder(cfg.out, np.load(cfg.queries), cfg.k, address=cfg.cluster, progress=True)
    with files.open_atomically(cfg.found, "wb") as file:
        np.savez(file, items=best.items_BJ, scores=best.scores_BJ)
    print(f"wrote {len(best.items_BJ):,} lists of {cfg.k} to {cfg.found}")
    return best


if __name__ == "__main__":
    from jaxrec.retrieval import (
        sharded,
    )  # workers find its functions by this name; `__main__` is another program there

    configs.run(sharded.main, sharded.ShardedConfig, __doc__)

"""How fast and how exactly are items found? Recall@10 against latency for each kind of index, one query at a time.

    python -m eval.search configs/search/search_1m57.py       1.57 million x 768 from the generator
    python -m eval.search configs/search/search_real.py       all real sentence vectors at hand (MiniLM)

Every index is built, saved, and served by a process of its own that only loads it (`search_serve`): its time for search
+ diversification (30 found, 10 kept), its memory. Recall is against exact search in float32, before any rounding.
Writes OUT/NAME.json and OUT/NAME.png.
"""

import dataclasses
import itertools
import logging
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from jaxrec import config
from jaxrec.config import ConfigError
from jaxrec.eval import search_geometry, search_plan, search_plot, search_serve, search_texts
from jaxrec.eval.search_vectors import SHAPE, Vectors
from jaxrec.results import print_table, write_results
from jaxrec.retrieval import top_k
from jaxrec.retrieval.exact import ExactSearch
from jaxrec.retrieval.index import Index
from jaxrec.retrieval.index_choice import IndexConfig, describe
from jaxrec.types import Shortlist

_log = logging.getLogger(__name__)
END_TO_END = 200  # queries that are encoded, too
COLUMNS = (
    "entry", "n_vectors", "nprobe", "ef", "candidates", "p50_ms", "p95_ms", "recall@10", "rss_mb", "build_s", "others",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of the plot: an index, and the settings to search it with (all combinations of what is given).

    n: only the first so many vectors (0: all), where building on all costs too much. queries: only so many (0: all).
    encoders: query encoders that are timed end to end with the best setting.
    """

    name: str
    index: IndexConfig
    nprobe: tuple[int, ...] = ()
    ef: tuple[int, ...] = ()
    candidates: tuple[int, ...] = ()
    n: int = 0
    queries: int = 0
    encoders: tuple[str, ...] = ()

    def settings(self) -> tuple[dict[str, int], ...]:
        """Keyword arguments of `Index.with_search`, one dict a round."""
        knobs = {k: getattr(self, k) for k in ("nprobe", "ef", "candidates") if getattr(self, k)}
        return tuple(dict(zip(knobs, v, strict=True)) for v in itertools.product(*knobs.values()))


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """What is searched and how.

    vectors: "generated" (`n` x `dim`) or "real" (at most `n` texts, MiniLM's width; the last `queries` of them are
    held out). work: a folder for vectors and indexes, gigabytes; each index is deleted once measured. cache: where
    real vectors are kept. plan: a number of vectors to plan for on paper, by the first entry and the one of its name
    and ", a quarter". recall, most_ms, most_mb: the bar.
    """

    name: str = "search"
    vectors: Literal["generated", "real"] = "generated"
    n: int = 20_000
    dim: int = 768
    queries: int = 1000
    entries: tuple[Entry, ...] = ()
    only: tuple[str, ...] = ()
    k: int = 10
    threads: int = 2
    rounds: int = 3
    plan: int = 0
    recall: float = 0.99
    most_ms: float = 30.0
    most_mb: float = 6144.0
    seed: int = 0
    work: str = "runs/search"
    cache: str = "runs/minilm"
    out: str = "results/search"


def main(cfg: SearchConfig) -> list[dict[str, Any]]:
    """Runs all entries, writes the rows and the plot, and returns the rows."""
    entries = [entry for entry in cfg.entries if not cfg.only or entry.name in cfg.only]
    if not entries:
        names = ", ".join(entry.name for entry in cfg.entries) or "none"
        raise ConfigError(f"no entry is left to run; the entries are {names}")
    start = time.perf_counter()
    work = Path(cfg.work)
    work.mkdir(parents=True, exist_ok=True)
    sizes = {entry.n or cfg.n for entry in entries}
    vectors_ID, q_BD, truth, told = _prepared(cfg, work, sizes)
    rows = []
    for entry in entries:
        n = min(entry.n or cfg.n, len(vectors_ID))
        rows += _measured(
            cfg, entry, vectors_ID[:n], q_BD, truth[min(entry.n or cfg.n, cfg.n)], work
        )
        print_table(rows, [c for c in COLUMNS if any(c in row for row in rows)])
        _record(
            cfg, rows, told, time.perf_counter() - start
        )  # what is there, should a later entry fail
    (work / "vectors.npy").unlink(missing_ok=True)
    return rows


# ------------------------------------------------------------------------------------------ inside


def _prepared(
    cfg: SearchConfig, work: Path, sizes: set[int]
) -> tuple[np.ndarray, np.ndarray, dict[int, Shortlist], dict[str, Any]]:
    """Vectors (float16, mapped, as `embed_catalog` keeps them), queries, the truth for each size, what to record."""
    if cfg.vectors == "real":
        real_ID, counts = search_texts.real_vectors(cfg.n, Path(cfg.cache))
        if len(real_ID) <= 2 * cfg.queries:
            raise ConfigError(f"{len(real_ID)} texts are too few to hold {cfg.queries} out")
        all_ID, q_BD = real_ID[: -cfg.queries], real_ID[-cfg.queries :]
        blocks: Iterable[np.ndarray] = np.array_split(all_ID, max(1, len(all_ID) // 8192))
        n, dim = all_ID.shape
        told: dict[str, Any] = {"texts": counts}
    else:
        made = Vectors(cfg.n, cfg.dim, cfg.seed)
        blocks, q_BD, n, dim = made.blocks(), made.queries(cfg.queries), cfg.n, cfg.dim
        told = {"shape": dataclasses.asdict(SHAPE)}
    kept_ID = np.lib.format.open_memmap(work / "vectors.npy", "w+", np.float16, (n, dim))
    edges = sorted({min(size, n) for size in sizes})
    found, truth, at = None, {}, 0
    most = max(100, cfg.k)  # a hundred neighbours, for the geometry of the whole
    for block_ID in tqdm(blocks, desc="exact search", unit="block"):
        kept_ID[at : at + len(block_ID)] = block_ID
        for stop in [e for e in edges if at < e <= at + len(block_ID)]:
            part = _exact(block_ID[: stop - at], q_BD, most, at)
            truth[stop] = part if found is None else top_k.merge([found, part], most)
        part = _exact(block_ID, q_BD, most, at)
        found = part if found is None else top_k.merge([found, part], most)
        at += len(block_ID)
    kept_ID.flush()
    np.save(work / "queries.npy", q_BD)
    near = search_geometry.of_search(found.scores_BJ, kept_ID, q_BD)
    told["geometry"] = search_geometry.geometry(near)
    return kept_ID, q_BD, truth | {s: truth[min(s, n)] for s in sizes | {cfg.n}}, told


def _exact(block_ID: np.ndarray, q_BD: np.ndarray, k: int, start: int) -> Shortlist:
    found = ExactSearch(np.ascontiguousarray(block_ID, np.float32)).search(q_BD, k)
    return Shortlist(np.where(found.items_BJ < 0, -1, found.items_BJ + start), found.scores_BJ)


def _measured(
    cfg: SearchConfig,
    entry: Entry,
    vectors_ID: np.ndarray,
    q_BD: np.ndarray,
    truth: Shortlist,
    work: Path,
) -> list[dict[str, Any]]:
    """Builds one index, serves it, deletes it."""
    folder = work / "index"
    shutil.rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    made = dataclasses.replace(entry.index, threads=cfg.threads)
    index = Index.build(vectors_ID, config=made, folder=folder, progress=True)
    build_s = time.perf_counter() - began
    resolved, files = index.config, {p.name: p.stat().st_size for p in folder.iterdir()}
    del index
    _log.info("%s: built in %.0f s", entry.name, build_s)
    queries = min(entry.queries or cfg.queries, len(q_BD))
    np.save(work / "queries.npy", q_BD[:queries])
    job = search_serve.Job(
        str(folder), str(work / "queries.npy"), entry.settings(), cfg.k, cfg.rounds
    )
    rows = []
    told, answers = search_serve.serve(job, cfg.threads)
    for setting, numbers, items_QK in zip(job.settings, told, answers, strict=True):
        shown = {k: v for k, v in setting.items() if k != "threads"}
        row = {"entry": entry.name, "n_vectors": len(vectors_ID), "dim": vectors_ID.shape[1]}
        row |= {"index": describe(dataclasses.replace(resolved, **shown)), **shown}
        row |= numbers | {"recall@10": _recall(items_QK, truth.items_BJ[:queries, : cfg.k])}
        row |= {"build_s": round(build_s, 1), "queries": queries}
        row |= {"structure_mb": round(files.get("structure.faiss", 0) / 2**20, 1)}
        row |= {"store_mb": round(files.get("vectors.bin", 0) / 2**20, 1)}
        rows.append(row)
    best = _best(cfg, rows)
    np.save(work / "queries.npy", q_BD[:END_TO_END])
    for name in entry.encoders if best is not None else ():
        setting = job.settings[rows.index(best)]
        whole = dataclasses.replace(job, settings=(setting,), encoder=name)
        (numbers,), _ = search_serve.serve(whole, cfg.threads)
        best |= {f"{name}_{key}": value for key, value in numbers.items()}
        from jaxrec.eval import search_query  # imports jax, which searching does without

        best |= {"query_encoder": search_query.weights_there()}
    shutil.rmtree(folder, ignore_errors=True)
    return rows


def _record(
    cfg: SearchConfig, rows: list[dict[str, Any]], told: dict[str, Any], wall_s: float
) -> None:
    """Writes the rows and the plot."""
    most = max(rows, key=lambda row: row["n_vectors"])
    title = f"{most['n_vectors']:,} x {most['dim']} {cfg.vectors} vectors, {cfg.threads} threads"
    plot = Path(cfg.out) / f"{cfg.name}.png"
    search_plot.curve(rows, title, plot, cfg.recall, cfg.most_ms)
    best, first = _best(cfg, rows), cfg.entries[0].name
    write_results(
        cfg.out, "search", rows, config=cfg, seed=cfg.seed, wall_s=wall_s, filename=f"{cfg.name}.json",
        headline=None if best is None else best["index"], best=best, plot=plot.name,
        plan=search_plan.plan(rows, f"{first}, a quarter", first, cfg.plan, cfg.recall),
        command=f"python -m eval.search configs/{cfg.name}.py", **told,
    )  # fmt: skip


def _recall(items_QK: np.ndarray, truth_QK: np.ndarray) -> float:
    """The share of the true k nearest that were found."""
    return round(float((items_QK[:, :, None] == truth_QK[:, None, :]).any(1).mean()), 5)


def _best(cfg: SearchConfig, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The fastest row that finds enough, of those over all vectors and other than exact ones."""
    most = max(row["n_vectors"] for row in rows)
    good = [
        row for row in rows
        if row["recall@10"] >= cfg.recall and row["n_vectors"] == most and row["rss_mb"] <= cfg.most_mb
    ]  # fmt: skip
    return min(good, key=lambda row: row["p50_ms"], default=None)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config.run(main, SearchConfig, __doc__)

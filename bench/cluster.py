"""The same job in this process, by one worker and by two: what does a cluster cost, and what does it give?

    python -m bench.cluster                       three rounds of each; writes results/cluster/cluster.json
    python -m bench.cluster --jobs index --rounds 1

Jobs: `nothing` (a thousand shards without work: the start, and the price of a shard), `embed` (MiniLM over sentences of
reviews), `profiles` (words and sentiment of reviews), `index` (eight shards of random vectors built, then searched, two
jobs). Each run is a process of its own that starts Ray (local:1 with all cores, local:2 with a half each), works, and
ends it; all take turns. Wall time is the job's, without the reading of its input. CPU seconds are those of the process
and of all that it started, seen in /proc four times a second, so up to a quarter of a second a process is missing. The
results of all runs must be the same bits. A child's own part: `--run JOB WORKERS`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from jaxrec import results
from jaxrec.cluster import map_shards
from jaxrec.config import RunError
from jaxrec.files import content_hash

SHARDS_OF_NOTHING = 1000
TEXTS, BLOCK = 1024, 128
REVIEWS, PART = 5120, 512
VECTORS, WIDTH, SHARDS, QUERIES = 200_000, 128, 8, 200
TICKS = os.sysconf("SC_CLK_TCK")
Timed = Callable[[str], str]  # address -> a hash of the result; what is timed


def nothing() -> Timed:
    """A thousand shards that are given back as they came."""

    def run(address: str) -> str:
        shards = range(SHARDS_OF_NOTHING)
        return content_hash(repr(list(map_shards(abs, shards, address=address))))

    return run


def embed() -> Timed:
    """MiniLM's vectors of sentences, 128 a shard."""
    from jaxrec.models.text.sentence import SentenceEncoder
    from jaxrec.retrieval.catalog_vectors import embed_catalog

    texts = [text[:200] for text in _reviews()][:TEXTS]

    def run(address: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            made = embed_catalog(
                texts, None, Path(folder) / "v", encoder="MiniLM", dim=384, dtype="float32",
                block=BLOCK, address=address, load=SentenceEncoder.load,
            )  # fmt: skip
            return content_hash(made.read())

    return run


def profiles() -> Timed:
    """The profiles of reviews, 512 a shard."""
    import pyarrow as pa

    from jaxrec.people.profiles import Profiles

    texts = _reviews()[:REVIEWS]
    rows = {"user": [f"u{i % 997}" for i in range(len(texts))], "text": texts}
    rows["item"] = [f"i{i % 101}" for i in range(len(texts))]
    batches = pa.table(rows).to_batches(PART)
    return lambda address: content_hash(*Profiles.build(batches, address=address).state().values())


def index() -> Timed:
    """Eight shards built and searched."""
    from jaxrec.retrieval.index_choice import IndexConfig
    from jaxrec.retrieval.sharded import build_shards, search_folder

    rng, cells = np.random.default_rng(0), IndexConfig(kind="ivf")
    vectors_ID = rng.standard_normal((VECTORS, WIDTH), np.float32)
    q_BD = rng.standard_normal((QUERIES, WIDTH), np.float32)

    def run(address: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            np.save(Path(folder) / "v.npy", vectors_ID)
            build_shards(
                Path(folder) / "v.npy", Path(folder) / "index", SHARDS, cells, address=address
            )
            found = search_folder(Path(folder) / "index", q_BD, 10, address=address)
            return content_hash(found.items_BJ, found.scores_BJ)

    return run


JOBS = {job.__name__: job for job in (nothing, embed, profiles, index)}


def main() -> None:
    """Runs all, prints the table, writes the record."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.cluster", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--jobs", nargs="+", choices=list(JOBS), default=list(JOBS))
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/cluster"))
    parser.add_argument("--note", default="", help="of the machine's state, kept in the record")
    parser.add_argument("--run", nargs=2, metavar=("JOB", "WORKERS"), help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.run:
        print(json.dumps(run(flags.run[0], int(flags.run[1]))))
        return
    began, load = time.perf_counter(), [os.getloadavg()[0]]
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for _ in range(flags.rounds):
        for job in flags.jobs:
            for workers in flags.workers:
                runs.setdefault((job, workers), []).append(_child(job, workers))
                load.append(os.getloadavg()[0])
    rows = []
    for (job, workers), own in runs.items():
        alone = runs.get((job, 0), own)
        row = {"job": job, "workers": workers, "threads": own[0]["threads"]}
        for name in ("wall_s", "cpu_s"):
            row[name] = round(median(one[name] for one in own), 2)
        row["wall_from"], row["wall_to"] = (f(one["wall_s"] for one in own) for f in (min, max))
        row["times_alone"] = round(row["wall_s"] / median(one["wall_s"] for one in alone), 2)
        rows.append(row | {"same": len({one["hash"] for one in [*own, *alone]}) == 1})
    results.print_table(rows)
    path = results.write_results(
        flags.out, "cluster", rows, wall_s=time.perf_counter() - began, filename="cluster.json",
        rounds=flags.rounds, load=[round(one, 1) for one in load], note=flags.note,
        command="python -m bench.cluster",
    )  # fmt: skip
    results.conclude([path])
    if wrong := [row for row in rows if not row["same"]]:
        raise SystemExit(f"{wrong[0]['job']} by {wrong[0]['workers']} workers gave other bits")


def run(job: str, workers: int) -> dict[str, Any]:
    """One run in this process: seconds, CPU seconds, and a hash of the result."""
    timed = JOBS[job]()
    done, seen = threading.Event(), {}
    watch = threading.Thread(target=_watch, args=(done, seen), daemon=True)
    before = _cpu(os.getpid())
    watch.start()
    began = time.perf_counter()
    made = timed(f"local:{workers}" if workers else "")
    wall_s = time.perf_counter() - began
    done.set()
    watch.join()
    cores = len(os.sched_getaffinity(0))
    return {
        "wall_s": round(wall_s, 2),
        "cpu_s": round((sum(seen.values()) - before) / TICKS, 2),
        "threads": max(1, cores // workers) if workers else cores,
        "hash": made,
    }


def _child(job: str, workers: int) -> dict[str, Any]:
    words = [sys.executable, "-m", "bench.cluster", "--run", job, str(workers)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"{job} by {workers} workers: {done.stderr.strip().splitlines()[-1]}")
    print(job, workers, done.stdout.strip(), flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def _watch(done: threading.Event, seen: dict[int, int]) -> None:
    """The CPU time of this process and of all below it, as last seen."""
    while True:
        parents = {}
        for folder in Path("/proc").glob("[0-9]*"):
            if (fields := _fields(int(folder.name))) is not None:
                parents[int(folder.name)] = int(fields[1])
        for pid in parents:
            above: int | None = pid
            while above is not None and above != os.getpid():
                above = parents.get(above)
            if above is not None:
                seen[pid] = _cpu(pid) or seen.get(pid, 0)
        if done.is_set():
            return
        done.wait(0.25)


def _fields(pid: int) -> list[str] | None:
    """What /proc says of a process behind its name: state, parent, ...; None where it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _cpu(pid: int) -> int:
    fields = _fields(pid)
    return 0 if fields is None else int(fields[11]) + int(fields[12])


def _reviews() -> list[str]:
    import csv
    import gzip

    from jaxrec.data.folder import dataset

    path = dataset("amazon14-musical-instruments-reviews") / "reviews.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return [row["reviewText"] for row in csv.DictReader(file) if row["reviewText"]]


if __name__ == "__main__":
    main()

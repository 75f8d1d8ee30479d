"""The serving process of `eval.search`: it loads a saved index, answers one query at a time, and says what that took.

    python -m eval.search_serve JOB.json      reads the job, writes JOB.answers.npz and JOB.told.json

A process of its own, so that its memory is the memory of serving: neither jax (but for a query encoder, where one is
asked for) nor the vectors that the index was built from are in it.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec import config as configs
from jaxrec.config import RunError
from jaxrec.retrieval.diversity import diversify
from jaxrec.retrieval.index import Index
from jaxrec.usage import busy_seconds, own_seconds, peak_mb

SHORTLIST = 30  # of the specification: thirty found, ten kept
WARM_UP = 20
QUIET = 0.1  # cores that other programs may take while a round counts


class ServeError(RunError):
    """The serving process ended without an answer."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to be served: an index's folder, queries (.npy), and the settings to try, one round each.

    settings: keyword arguments of `Index.with_search`. encoder: what makes query vectors meanwhile ("" for none), as
    of `eval.search_query`. rounds: how often a round may be repeated while other programs use the CPU.
    """

    folder: str
    queries: str
    settings: tuple[dict[str, int], ...]
    k: int = 10
    rounds: int = 3
    encoder: str = ""


def serve(job: Job, threads: int) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Runs the job in a process of its own: one dict a setting, and the items found [settings, queries, k].

    p50_ms, p95_ms: search and diversification of one query. encode_ms, total_ms with an encoder. rss_mb: the most
    memory that the process ever had, mapped files included. others: cores that other programs used meanwhile.
    Raises ServeError with what the process said.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(dataclasses.asdict(job)))
        env = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
        command = [sys.executable, "-m", "jaxrec.eval.search_serve", str(path)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
            raise ServeError(f"serving {job.folder} failed: {said}")
        told = json.loads(path.with_suffix(".told.json").read_text())
        return told, np.load(path.with_suffix(".answers.npy"))


def answer(
    job: Job, encode: Callable[[int], Any] | None = None
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """The work itself, in this process. `encode(i)` is called before query i and timed with it."""
    loading = time.perf_counter()
    index = Index.load(job.folder, verify=False)
    load_s = time.perf_counter() - loading
    q_BD = np.load(job.queries)
    told, answers = [], []
    for setting in job.settings:
        served = index.with_search(**setting)
        _round(served, q_BD[:WARM_UP], job.k, encode)
        rounds = []
        for _ in range(max(1, job.rounds)):
            rounds.append(_round(served, q_BD, job.k, encode))
            if rounds[-1][0]["others"] <= QUIET:
                break
        numbers, items_QK = min(rounds, key=lambda r: r[0]["others"])
        told.append({**numbers, "rss_mb": round(peak_mb(), 1), "load_s": load_s})
        answers.append(items_QK)
    return told, np.stack(answers)


def percentiles(name: str, seconds: Sequence[float]) -> dict[str, float]:
    """{"NAMEp50_ms", "NAMEp95_ms"}."""
    p50, p95 = np.percentile(np.asarray(seconds) * 1e3, [50, 95])
    return {f"{name}p50_ms": round(float(p50), 3), f"{name}p95_ms": round(float(p95), 3)}


# ------------------------------------------------------------------------------------------ inside


def _round(
    index: Index, q_BD: np.ndarray, k: int, encode: Callable[[int], Any] | None
) -> tuple[dict[str, float], np.ndarray]:
    """All queries once, one at a time."""
    encoding, searching, items = [], [], []
    own, busy, start = own_seconds(), busy_seconds(), time.perf_counter()
    for i in range(len(q_BD)):
        began = time.perf_counter()
        if encode is not None:
            encode(i)
        encoded = time.perf_counter()
        found = index.search(q_BD[i : i + 1], SHORTLIST)
        diversify(found, index.vectors(found.items_BJ), k=k)
        searching.append(time.perf_counter() - encoded)
        encoding.append(encoded - began)
        items.append(found.items_BJ[0, :k])
    took, after = time.perf_counter() - start, busy_seconds()
    used = own_seconds() - own
    others = 0.0 if busy is None or after is None else max(0.0, after - busy - used) / took
    numbers = {**percentiles("", searching), "others": round(others, 3)}
    if encode is not None:
        total = np.asarray(encoding) + searching
        numbers |= percentiles("encode_", encoding) | percentiles("total_", total)
    return numbers, np.stack(items)


def main() -> None:
    """Reads the job, writes what was found and what it took."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.search_serve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job", type=Path)
    path = parser.parse_args().job
    job = configs.from_dict(Job, json.loads(path.read_text()))
    encode = None
    if job.encoder:
        from jaxrec.eval.search_query import query_encoder

        encode = query_encoder(job.encoder)
    told, answers = answer(job, encode)
    np.save(path.with_suffix(".answers.npy"), answers)
    path.with_suffix(".told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()

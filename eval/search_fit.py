"""Fits the generator of `jaxrec.eval.search_vectors` to real sentence vectors, and prints both geometries side by side.

    python -m eval.search_fit                 measures both at several sizes; writes results/search/geometry.json
    python -m eval.search_fit --steps 150     searches for better constants first, and prints them

Real: MiniLM's vectors of all texts at hand, the last thousand held out as queries. Loss: squared differences of the
logarithms of near_1, near_10, near_100, the likelihood dimensions and TwoNN, at two sizes. Beyond the size of the real
set the generator is compared with what the slopes of the measured distances lead to.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxrec.eval.search_geometry import distances, extrapolated, geometry, slope
from jaxrec.eval.search_texts import real_vectors
from jaxrec.eval.search_vectors import SHAPE, Shape, Vectors
from jaxrec.results import print_table, write_results

SIZES = (1000, 3000, 10_000, 30_000, 100_000)
QUERIES = 1000
DIM = 768
FULL = 1_570_000
MATCHED = {"near_1": 1.0, "near_10": 2.0, "near_100": 2.0, "mle_10": 0.3, "mle_100": 0.5}
MATCHED |= {"two_nn": 0.3, "spread_1": 0.05, "mean": 4.0}
# What the search may change; counts are powers of two, found by hand.
FREE = (
    "topic", "subtopic", "topic_decay", "subtopic_decay", "own_decay", "size_decay", "uneven", "own_uneven",
)  # fmt: skip


def of_real(vectors_ID: np.ndarray, q_QD: np.ndarray) -> dict[int, dict[str, float]]:
    """{size: geometry} of the first so many vectors."""
    return {n: geometry(distances(vectors_ID[:n], q_QD)) for n in SIZES if n <= len(vectors_ID)}


def of_shape(shape: Shape, sizes: tuple[int, ...], queries: int) -> dict[int, dict[str, float]]:
    """{size: geometry} of what a shape draws."""
    made = Vectors(max(sizes), DIM, 0, shape)
    all_ID, q_QD = made.array(), made.queries(queries)
    return {n: geometry(distances(all_ID[:n], q_QD)) for n in sizes}


def loss(real: Mapping[int, Mapping[str, float]], made: Mapping[int, Mapping[str, float]]) -> float:
    """Weighted mean of squared log ratios over sizes and numbers."""
    total = [
        weight * np.log(made[n][name] / real[n][name]) ** 2
        for n in made
        for name, weight in MATCHED.items()
    ]
    return float(np.mean(total))


def fitted(
    real: Mapping[int, Mapping[str, float]], start: Shape, steps: int, sizes: tuple[int, ...]
) -> tuple[Shape, float]:
    """The best of a random walk that keeps what is better: each step changes three constants by some per cent."""
    rng = np.random.default_rng(0)
    best, least, width = start, loss(real, of_shape(start, sizes, 500)), 0.25
    for step in range(steps):
        names = rng.choice(FREE, 3, replace=False)
        new = {
            str(n): round(getattr(best, n) * float(np.exp(width * rng.standard_normal())), 4)
            for n in names
        }
        trial = dataclasses.replace(best, **new)
        value = loss(real, of_shape(trial, sizes, 500))
        width = max(0.04, min(0.4, width * (1.3 if value < least else 0.96)))
        if value < least:
            best, least = trial, value
            print(f"step {step}: {least:.5f} {trial}", flush=True)
    return best, least


def main() -> None:
    """Measures, fits where asked to, prints and writes."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.search_fit", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--texts", type=int, default=120_000)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--sizes", type=int, nargs="+", default=[3000, 30_000])
    parser.add_argument(
        "--start", type=json.loads, default={}, help="JSON of constants to start from"
    )
    parser.add_argument("--cache", type=Path, default=Path("runs/minilm"))
    parser.add_argument("--out", type=Path, default=Path("results/search"))
    flags = parser.parse_args()
    start = time.perf_counter()
    vectors_ID, counts = real_vectors(flags.texts, flags.cache)
    vectors_ID, q_QD = vectors_ID[:-QUERIES], vectors_ID[-QUERIES:]
    real = of_real(vectors_ID, q_QD)
    shape = dataclasses.replace(SHAPE, **flags.start)
    if flags.steps:
        shape, _ = fitted(real, shape, flags.steps, tuple(flags.sizes))
        print(shape)
    made = of_shape(shape, tuple(real), QUERIES)
    rows = []
    for n in real:
        rows += [
            {"vectors": "real", "n": n, **real[n]},
            {"vectors": "generated", "n": n, **made[n]},
        ]
    sizes = sorted(real)[1:]
    near = {f"near_{k}": [real[n][f"near_{k}"] for n in sizes] for k in (1, 10, 100)}
    leads = {name: extrapolated(sizes, values, FULL) for name, values in near.items()}
    rows.append({"vectors": "real, by slope", "n": FULL, **leads})
    print_table(
        [{k: round(v, 3) if isinstance(v, float) else v for k, v in r.items()} for r in rows]
    )
    slopes = {name: round(slope(sizes, values)[1], 4) for name, values in near.items()}
    print("slopes of log distance over log size:", slopes, "loss", round(loss(real, made), 5))
    write_results(
        flags.out, "geometry", rows, config=shape, wall_s=time.perf_counter() - start,
        filename="geometry.json", slopes=slopes, texts=counts, command="python -m eval.search_fit",
    )  # fmt: skip


if __name__ == "__main__":
    main()

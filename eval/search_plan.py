"""A larger catalogue on paper: what the rows of one size and of a quarter of it lead to, cut into shards.

Time, bytes and building are taken as a + b n, by the two sizes measured; how many candidates must be re-scored for the
recall that is asked for grows as a power of n. Shards search side by side, each on cores of its own; each returns
thirty items, whose merging costs tens of microseconds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, Any]


def plan(
    rows: Sequence[Row],
    small: str,
    large: str,
    n: int,
    recall: float,
    shards: Sequence[int] = (1, 2, 4, 8),
) -> list[dict[str, Any]]:
    """One row a layout: `n` vectors in so many shards. Empty where either entry never reaches the recall.

    small, large: names of two entries with one kind of index, over fewer and over more vectors. Both are read at the
    number of candidates that reaches `recall`, interpolated between the settings measured.
    """
    if not n:
        return []
    sizes, points = [], []
    for name in (small, large):
        own = sorted((r for r in rows if r["entry"] == name), key=lambda r: r["candidates"])
        if not own or max(r["recall@10"] for r in own) < recall:
            return []
        sizes.append(own[0]["n_vectors"])
        points.append(_at(own, recall))
    if sizes[0] >= sizes[1]:
        return []
    line = {key: _line(sizes, [p[key] for p in points]) for key in points[0]}
    growth = np.log(points[1]["candidates"] / points[0]["candidates"]) / np.log(sizes[1] / sizes[0])
    out = []
    for count in shards:
        each = n / count
        # The candidates of all shards together are those of one large index: each brings its share, and some more.
        asked = points[1]["candidates"] * (each / sizes[1]) ** growth
        at = {key: a + b * each for key, (a, b) in line.items()}
        out.append(
            {
                "n_vectors": n,
                "shards": count,
                "vectors_each": round(each),
                "candidates": round(asked),
                "p50_ms": round(at["p50_ms"], 1),
                "codes_gb": round(at["structure_mb"] / 1024, 2),
                "store_gb": round(at["store_mb"] / 1024, 2),
                "build_s": round(at["build_s"]),
            }
        )
    return out


# ------------------------------------------------------------------------------------------ inside


def _at(own: Sequence[Row], recall: float) -> dict[str, float]:
    """Candidates and time where the recall is reached (linear in log candidates between two settings), and sizes."""
    reached = next(i for i, row in enumerate(own) if row["recall@10"] >= recall)
    last = own[reached]
    out = {key: float(last[key]) for key in ("p50_ms", "structure_mb", "store_mb", "build_s")}
    out["candidates"] = float(last["candidates"])
    if reached and last["recall@10"] > own[reached - 1]["recall@10"]:
        before = own[reached - 1]
        part = (recall - before["recall@10"]) / (last["recall@10"] - before["recall@10"])
        out["candidates"] = (
            before["candidates"] * (last["candidates"] / before["candidates"]) ** part
        )
        share = (out["candidates"] - before["candidates"]) / (
            last["candidates"] - before["candidates"]
        )
        out["p50_ms"] = before["p50_ms"] + share * (last["p50_ms"] - before["p50_ms"])
    return out


def _line(sizes: Sequence[int], values: Sequence[float]) -> tuple[float, float]:
    """(a, b) of a + b n through two points; never falling with n."""
    slope = max(0.0, (values[1] - values[0]) / (sizes[1] - sizes[0]))
    return values[1] - slope * sizes[1], slope

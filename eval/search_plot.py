"""Recall against latency: a line for each index, its points the settings; the corner that is asked for is shaded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLOURS = ("#b2182b", "#2166ac", "#1b7837", "#7b3294", "#e08214", "#333333")


def curve(
    rows: Sequence[Mapping[str, Any]], title: str, path: Path, recall: float, most_ms: float
) -> None:
    """Draws recall@10 over p50 into `path` (.png or .svg)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(6.4, 3.8), dpi=110, layout="constrained")
    low = min([row["recall@10"] for row in rows] + [recall])
    panel.axvline(most_ms, color="#999999", linewidth=0.8, linestyle=":")
    panel.text(most_ms * 0.97, low, f"{most_ms:g} ms", fontsize=7, ha="right", color="#666666")
    for i, name in enumerate(dict.fromkeys(row["entry"] for row in rows)):
        own = sorted((row for row in rows if row["entry"] == name), key=lambda row: row["p50_ms"])
        label = (
            name
            if own[0]["n_vectors"] == max(r["n_vectors"] for r in rows)
            else (f"{name} ({own[0]['n_vectors']:,} vectors)")
        )
        panel.plot(
            [row["p50_ms"] for row in own], [row["recall@10"] for row in own],
            marker="o", markersize=3.5, linewidth=1.2, color=COLOURS[i % len(COLOURS)], label=label,
        )  # fmt: skip
    panel.set_xscale("log")
    left, right = panel.get_xlim()
    panel.fill_between([left, most_ms], recall, 1.002, color="#dddddd", alpha=0.4, linewidth=0)
    panel.set_xlim(left, max(right, 1.2 * most_ms))
    panel.set_ylim(low - 0.02 * (1 - low) - 0.002, 1.002)
    panel.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    panel.set_xlabel("search + diversify, one query, p50 in ms")
    panel.set_ylabel("recall@10")
    panel.grid(alpha=0.25, which="both", linewidth=0.5)
    panel.legend(fontsize=7, loc="lower right", frameon=True, framealpha=0.9)
    panel.set_title(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)

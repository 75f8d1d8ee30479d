"""Growth curves as small multiples: measured points, the paper's curve dashed, both axes logarithmic."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from bench.growth_paper import AXES

# measure -> (what the rows call it, what the paper says, the two slopes, unit)
_FIELDS = {
    "time": ("step_ms", "expected_ms", "slope_measured", "slope_expected", "ms"),
    "memory": ("peak_mb", "expected_mb", "memory_measured", "memory_expected", "MB"),
}
_COLOURS = {"LoRA step": "#b2182b", "turn of 16 tokens": "#2166ac", "SASRec step": "#1b7837"}
_COLOURS |= {"DeepMF update": "#762a83", "exact search": "#e08214"}


def plot(
    rows: Sequence[Mapping[str, Any]],
    slopes: Sequence[Mapping[str, Any]],
    measure: Literal["time", "memory"],
    path: Path,
) -> None:
    """Draws a panel for each axis into `path`. Axes without numbers (memory away from Linux) stay out."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from PIL import Image

    name, paper, own, expected, unit = _FIELDS[measure]
    shown = [s for s in slopes if any(r["axis"] == s["axis"] and r.get(paper) for r in rows)]
    if not shown:
        return
    across = min(3 if len(shown) < 10 else 4, len(shown))
    down = -(-len(shown) // across)
    figure, panels = pyplot.subplots(
        down, across, figsize=(3.2 * across, 2.5 * down), dpi=90, layout="constrained", squeeze=False
    )  # fmt: skip
    for panel in panels.flat[len(shown) :]:
        panel.set_axis_off()
    for panel, slope in zip(panels.flat, shown, strict=False):
        points = [row for row in rows if row["axis"] == slope["axis"]]
        values = [row["value"] for row in points]
        colour = _COLOURS.get(slope["step"], "#333333")
        ys, on_paper = [row[name] for row in points], [row[paper] for row in points]
        panel.plot(
            values, on_paper, "--", color="#555555", lw=1.2, label=_said("paper", slope[expected])
        )
        panel.plot(values, ys, "o", color=colour, ms=5, label=_said("measured", slope[own]))
        panel.set_xscale("log")
        panel.set_yscale("log")
        # a flat curve is to look flat: a factor of ten is shown at least
        low, high = min(ys + on_paper), max(ys + on_paper)
        middle, reach = (low * high) ** 0.5, max(1.25 * (high / low) ** 0.5, 10**0.5)
        panel.set_ylim(middle / reach, middle * reach)
        ticks = values if len(values) <= 7 else values[::2]
        panel.set_xticks(ticks, [_short(v) for v in ticks])
        panel.minorticks_off()
        panel.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5), numticks=12))
        panel.yaxis.set_major_formatter(lambda y, _: f"{y:,.4g}" if y < 1e4 else f"{y:,.0f}")
        panel.tick_params(labelsize=8)
        panel.set_title(f"{slope['axis']}: {slope['step']}", fontsize=10)
        panel.set_xlabel(AXES[slope["axis"]].label, fontsize=8)
        panel.set_ylabel(unit, fontsize=8)
        panel.grid(alpha=0.25, lw=0.5)
        panel.legend(
            fontsize=7, loc="best", frameon=False, title="slope, upper half", title_fontsize=7
        )
    what = "Time of a step" if measure == "time" else "Peak memory, the model's own"
    figure.suptitle(f"{what}: measured, and on paper (anchored at the middle point)", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    pyplot.close(figure)
    with Image.open(drawn) as picture:  # a palette: a third of the bytes
        picture.convert("RGB").quantize(255).save(path, optimize=True)


def _said(what: str, slope: float | None) -> str:
    return what if slope is None else f"{what} {slope:.2f}"


def _short(value: int) -> str:
    return f"{value // 1000}k" if value >= 1000 and value % 1000 == 0 else str(value)

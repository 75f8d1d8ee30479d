"""Quality against trained parameters: a point a method, the untuned base as a line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_LABELS = {"accuracy": "accuracy, exact intent name", "rouge_l": "ROUGE-L F1 of written answers"}
_COLOURS = {
    "full": "#333333", "lora": "#b2182b", "rslora": "#ef8a62", "dora": "#d6604d", "lora_nf4": "#f4a582",
    "adapter": "#2166ac", "adapter_mlp": "#67a9cf", "prefix": "#1b7837", "prompt": "#7fbf7b",
    "ia3": "#762a83", "norm": "#af8dc3", "attn_bias": "#999999",
}  # fmt: skip


def plot(rows: Sequence[Mapping[str, Any]], task: str, measure: str, path: Path) -> None:
    """Draws both panels, the measure and nats a token, into `path`; error bars are standard deviations over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4), dpi=110, layout="constrained")
    tuned = [row for row in rows if row["parameters"]]
    for panel, name in zip(panels, (measure, "nll"), strict=True):
        for row in tuned:
            panel.errorbar(
                row["parameters"], row[name], yerr=row.get(f"{name}_sd") or 0, fmt="o", ms=5, capsize=2,
                color=_COLOURS.get(row["method"], "#000000"), label=row["method"],
            )  # fmt: skip
        for row in rows:
            if not row["parameters"]:
                panel.axhline(row[name], color="#999999", linestyle=":", label="untuned")
        panel.set_xscale("log")
        panel.set_xlabel("trained parameters")
        panel.set_title(_LABELS.get(name, "nats a token (lower is better)"), fontsize=10)
        panel.grid(alpha=0.2)
    panels[1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    figure.suptitle(f"{task}: quality against trained parameters", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)

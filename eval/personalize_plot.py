"""The k-curve: accuracy and NLL of every row against the number of examples, with 95% bands."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

STYLE = {
    "own_p_gradient": ("own p, gradient", "#b2182b", "-"),
    "own_p_encoder": ("own p, encoder", "#ef8a62", "-"),
    "own_bias": ("bias of their own", "#1b7837", "-"),
    "own_effects": ("bias and slope, prior learned", "#5aae61", "-"),
    "own_lora": ("LoRA of their own", "#7b3294", "-"),
    "pooled": ("pooled model", "#333333", "--"),
    "mean_p": ("mean p", "#2166ac", "--"),
    "shuffled_p": ("another's p", "#67a9cf", ":"),
    "language_only": ("language only", "#999999", "-."),
    "global_mode": ("global mode", "#999999", ":"),
}


def k_curve(rows: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Draws both panels into `path` (.png or .svg)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.4), dpi=110, layout="constrained")
    ks = sorted({row["k"] for row in rows})
    for panel, metric in zip(panels, ("accuracy", "nll"), strict=True):
        for name, (label, colour, line) in STYLE.items():
            own = sorted((row for row in rows if row["row"] == name), key=lambda row: row["k"])
            if not own:
                continue
            at = [ks.index(row["k"]) for row in own]
            panel.plot(
                at, [row[metric] for row in own], line, color=colour, label=label, marker="."
            )
            if name in ("own_p_gradient", "own_p_encoder"):
                band = [[row[f"{metric}_{end}"] for row in own] for end in ("lo", "hi")]
                panel.fill_between(at, *band, color=colour, alpha=0.12, linewidth=0)
        panel.set_xticks(range(len(ks)), [str(k) for k in ks])
        panel.set_xlabel("examples of each person")
        panel.set_title("accuracy" if metric == "accuracy" else "NLL (nats)", fontsize=10)
    panels[1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path)
    pyplot.close(figure)

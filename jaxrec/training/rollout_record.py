"""Floor 2: what rollouts earned, on disk: a line each, their curves, and texts to read.

OUT/rollouts.jsonl    one JSON object a rollout: {"rollout", "reward", "reward/PART", "kl", "tokens", ...}
OUT/reward.png        the reward and its parts, signs of gaming, KL, lengths
OUT/samples.jsonl     texts to the same prompts at several steps, with their scores
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrec.files import continue_json_lines, read_json_lines


class RolloutRecord:
    """The lines of OUT/rollouts.jsonl. A rollout that a killed run had already made replaces its line, and all after
    it, so a resumed run leaves the file of the uninterrupted one."""

    def __init__(self, out: Path):
        self.out = out

    def add(self, number: int, numbers: Mapping[str, Any]) -> None:
        """The line of rollout `number` (0, 1, ...)."""
        row = {"rollout": number, **numbers}
        continue_json_lines(self.out / "rollouts.jsonl", [row], "rollout", number)

    def draw(self, title: str) -> None:
        """OUT/reward.png. Does nothing before the first rollout."""
        rows = read_json_lines(self.out / "rollouts.jsonl")
        if rows:
            draw_rollouts(rows, self.out / "reward.png", title)


def write_samples(path: Path, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Adds the texts of `step`; those of this step and of later ones (of a killed run) are replaced."""
    continue_json_lines(path, ({"step": step, **row} for row in rows), "step", step)


def draw_rollouts(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Four panels over the number of the rollout: the reward, its parts, signs of gaming, KL with its price, length."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(rows[0])
    starting = lambda prefix: [name for name in names if name.startswith(prefix)]
    panels = [
        ("reward", ["reward"]),
        ("parts of the reward", starting("reward/")),
        ("signs of gaming, texts cut short", [*starting("gaming/"), "stopped_short"]),
        ("KL to the reference, nats a text", ["kl"]),
        ("length", ["words", "tokens"]),
    ]
    panels = [(said, [n for n in own if n in names]) for said, own in panels]
    panels = [(said, own) for said, own in panels if own]
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(7, 2.1 * len(panels)), sharex=True, squeeze=False
    )
    for axis, (said, own) in zip(axes[:, 0], panels, strict=True):
        for name in own:
            axis.plot(
                [row["rollout"] for row in rows],
                [row[name] for row in rows],
                label=name.rsplit("/", 1)[-1].replace("_", " "),
                marker="." if len(rows) < 40 else None,
            )
        axis.set_title(said, loc="left", fontsize=9)
        axis.grid(alpha=0.3)
        if len(own) > 1:
            axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    if {"coef", "kl"} <= set(names):
        price = axes[[said.startswith("KL") for said, _ in panels].index(True), 0].twinx()
        price.plot([r["rollout"] for r in rows], [r["coef"] for r in rows], color="gray", ls=":")
        price.set_ylabel("price of a nat (dotted)", fontsize=7)
    axes[-1, 0].xaxis.get_major_locator().set_params(integer=True)
    axes[-1, 0].set_xlabel("rollout")
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)

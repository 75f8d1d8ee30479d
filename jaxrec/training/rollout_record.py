"""Floor 2: what rollouts earned, on disk: a line each, their curves, and texts to read.

OUT/rollouts.jsonl    one JSON object a rollout: {"rollout", "reward", "reward/PART", "kl", "tokens", ...}
OUT/reward.png        the reward and its parts, signs of gaming, KL, lengths
OUT/samples.jsonl     texts to the same prompts at several steps, with their scores
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


class RolloutRecord:
    """The lines of OUT/rollouts.jsonl. A rollout that a killed run had already made replaces its line, and all after
    it, so a resumed run leaves the file of the uninterrupted one."""

    def __init__(self, out: Path):
        self.out = out

    def add(self, number: int, numbers: Mapping[str, Any]) -> None:
        """The line of rollout `number` (0, 1, ...)."""
        path = self.out / "rollouts.jsonl"
        rows = [row for row in read_lines(path) if row["rollout"] < number]
        write_lines(path, [*rows, {"rollout": number, **numbers}])

    def draw(self, title: str) -> None:
        """OUT/reward.png. Does nothing before the first rollout."""
        rows = read_lines(self.out / "rollouts.jsonl")
        if rows:
            draw_rollouts(rows, self.out / "reward.png", title)


def write_samples(path: Path, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Adds the texts of `step`; those of this step and of later ones (of a killed run) are replaced."""
    kept = [row for row in read_lines(path) if row["step"] < step]
    write_lines(path, [*kept, *({"step": step, **row} for row in rows)])


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes all rows, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".tmp")
    fresh.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    fresh.replace(path)


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

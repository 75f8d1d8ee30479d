"""How cost grows: time and memory of a step against ten sizes, each beside what it should cost on paper.

    python -m bench.growth configs/bench/growth_cpu.py                             all ten axes
    python -m bench.growth configs/bench/growth_cpu.py --axes batch length         some of them
    python -m bench.growth configs/bench/growth_cpu.py --points.length 64 256 1024 --fresh

batch, length, layers, vocabulary: a LoRA fine-tuning step. tenants, rows: a turn answered by the preference head, each
row with its own p. items: a SASRec step over the whole catalogue. table: a DeepMF update by row; reach: the same, its
batches drawn from the first rows of large tables. vectors: exact search.
Every point is measured in a process of its own (`bench.growth_point`), and what was measured already, with the same
sizes, is kept in OUT/rows, so a run that was stopped goes on. Writes RESULTS/NAME.json, with the slopes on log-log axes
over the upper half of each axis, RESULTS/NAME_time.png and RESULTS/NAME_memory.png. Free memory needed: 5 GB.
"""

import dataclasses
import difflib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.growth_paper import AXES, Machine, Sizes, anchored, cost, exponent
from bench.growth_plot import plot
from jaxrec import config, results
from jaxrec.config import RunError
from jaxrec.files import write_json

CALM = 0.15  # cores that other programs may use before a point is measured once more


def doublings(first: int, times: int = 5) -> tuple[int, ...]:
    """`first`, twice that, and so on."""
    return tuple(first * 2**n for n in range(times + 1))


@dataclasses.dataclass(frozen=True)
class Points:
    """Where each axis is measured; its other sizes are those of `Sizes`."""

    batch: tuple[int, ...] = doublings(1)
    length: tuple[int, ...] = doublings(64)
    layers: tuple[int, ...] = doublings(1)
    vocabulary: tuple[int, ...] = doublings(1024)
    tenants: tuple[int, ...] = (1, 10, 100, 1000, 10_000)
    rows: tuple[int, ...] = doublings(1, 6)
    items: tuple[int, ...] = doublings(1000)
    table: tuple[int, ...] = doublings(10_000)
    reach: tuple[int, ...] = doublings(10_000)
    vectors: tuple[int, ...] = doublings(10_000)


@dataclasses.dataclass(frozen=True)
class GrowthConfig:
    """What is measured, how thoroughly, and where it goes."""

    axes: tuple[str, ...] = tuple(AXES)
    points: Points = Points()
    sizes: Sizes = Sizes()
    steps: int = 5  # timed steps a point, at least
    seconds: float = 1.0  # and as many as fit into this time
    attempts: int = 2  # at a point while other programs take part of the CPU; the calmest counts
    fresh: bool = False  # forget the points in OUT/rows
    out: str = "runs/growth"
    name: str = "cpu"
    results: str = "results/growth"


class GrowthError(RunError, ValueError):
    """An axis that there isn't, too few points on one, or a point that could not be measured."""


def main(cfg: GrowthConfig) -> list[dict[str, Any]]:
    """Measures what is missing; writes and returns the rows of all axes that are complete."""
    check(cfg)
    if cfg.fresh:
        shutil.rmtree(Path(cfg.out) / "rows", ignore_errors=True)
    todo = [(axis, value) for axis in cfg.axes for value in getattr(cfg.points, axis)]
    machine = Machine(**kept(cfg, "machine", None, lambda: child(cfg, ["--machine"])))
    for at, (axis, value) in enumerate(todo, 1):
        row = kept(cfg, axis, value, lambda axis=axis, value=value: measured(cfg, axis, value))
        memory = "" if row["peak_mb"] is None else f", {row['peak_mb']:,.0f} MB"
        noise = f" (others used {row['others']:.2f} cores)" if row["others"] > CALM else ""
        said = f"{at}/{len(todo)} {axis} {value:,}: {row['step_ms']:,.2f} ms{memory}{noise}"
        print(said, flush=True)
    rows, slopes = told(cfg, machine)
    results.print_table(slopes)
    path = results.write_results(
        cfg.results, "growth", rows, config=cfg, wall_s=sum(row["wall_s"] for row in rows),
        filename=f"{cfg.name}.json", slopes=slopes, machine=dataclasses.asdict(machine),
        malloc=os.environ.get("GLIBC_TUNABLES"),
        command=f"python -m bench.growth configs/growth_{cfg.name}.py",
    )  # fmt: skip
    for measure in ("time", "memory"):
        plot(rows, slopes, measure, path.with_name(f"{cfg.name}_{measure}.png"))
    return rows


def check(cfg: GrowthConfig) -> None:
    """Raises GrowthError for an axis that is not known, and for points that make no curve."""
    for axis in cfg.axes:
        if axis not in AXES:
            near = difflib.get_close_matches(axis, AXES, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(AXES)}"
            raise GrowthError(f"there is no axis {axis!r}: {hint}")
        values = getattr(cfg.points, axis)
        if len(values) < 2 or list(values) != sorted(set(values)) or values[0] < 1:
            raise GrowthError(
                f"--points.{axis} {values}: give two ascending numbers of 1 or more, at least"
            )


def kept(cfg: GrowthConfig, axis: str, value: int | None, measure: Any) -> dict[str, Any]:
    """A row of OUT/rows where it was asked for in the same way; else what `measure()` gives, which is then written."""
    path = Path(cfg.out) / "rows" / f"{axis if value is None else f'{axis}_{value}'}.json"
    asked = {"sizes": dataclasses.asdict(cfg.sizes), "steps": cfg.steps, "seconds": cfg.seconds}
    if path.exists():
        found = json.loads(path.read_text())
        if found["asked"] == asked:
            return found["row"]
    row = measure()
    write_json(path, {"asked": asked, "row": row})
    return row


def measured(cfg: GrowthConfig, axis: str, value: int) -> dict[str, Any]:
    """A point, measured again while other programs disturb it: the calmest attempt."""
    words = [f"--axis={axis}", f"--value={value}", f"--steps={cfg.steps}"]
    words += [f"--seconds={cfg.seconds}", f"--sizes={json.dumps(dataclasses.asdict(cfg.sizes))}"]
    began, found = time.perf_counter(), []
    while len(found) < max(1, cfg.attempts):
        found.append(child(cfg, words))
        if found[-1]["others"] <= CALM:
            break
    best = min(found, key=lambda row: row["others"])
    return best | {"wall_s": round(time.perf_counter() - began, 2)}


def child(cfg: GrowthConfig, words: Sequence[str]) -> dict[str, Any]:
    """What a fresh process of `bench.growth_point` says. Raises GrowthError with its last words where it fails."""
    command = [sys.executable, "-m", "bench.growth_point", *words, f"--cache={cfg.out}/programs"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise GrowthError(
            f"{' '.join(words[:2])} ended with status {done.returncode} (-9: no memory): {last}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def told(cfg: GrowthConfig, machine: Machine) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(rows with the paper's numbers beside them, slopes by axis) of every axis whose points have all been measured."""
    rows, slopes = [], []
    for axis in AXES:
        own = list(complete(cfg, axis))
        if not own:
            continue
        values = [row["value"] for row in own]
        paper = [cost(axis, value, cfg.sizes) for value in values]
        seconds = [machine.seconds(p) for p in paper]
        times = [row["step_ms"] for row in own]
        sizes = [row["peak_mb"] for row in own]
        for row, ms in zip(own, anchored(seconds, times), strict=True):
            row["expected_ms"] = ms
        held = [p.held for p in paper]
        if None not in sizes:
            for row, mb in zip(own, anchored(held, sizes), strict=True):
                row["expected_mb"] = mb
        rows += own
        ends = {"from": values[0], "to": values[-1], "step": AXES[axis].step}
        slopes.append(
            {
                "axis": axis, **ends,
                "slope_measured": exponent(values, times), "slope_expected": exponent(values, seconds),
                "memory_measured": exponent(values, sizes), "memory_expected": exponent(values, held),
            }
        )  # fmt: skip
    return rows, slopes


def complete(cfg: GrowthConfig, axis: str) -> Iterator[Mapping[str, Any]]:
    """The rows of an axis, or none where some are missing (left out by `--axes`, and never measured before)."""

    def missing() -> dict[str, Any]:
        raise LookupError

    try:
        rows = [(v, kept(cfg, axis, v, missing)) for v in getattr(cfg.points, axis)]
    except LookupError:
        return
    yield from ({"axis": axis, "value": value, **row} for value, row in rows)


if __name__ == "__main__":
    config.run(main, GrowthConfig, __doc__)

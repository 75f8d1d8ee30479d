"""Runs a race: contenders in processes of their own, one at work at a time, rounds interleaved and rotated.

A round is every contender once. A ratio is taken inside a round, so what slows the whole machine for a while slows
both sides of it. A round during which other programs used more than `FOREIGN` of a core is thrown away unseen and
run again; when that happens too often the row says so.

A contender of ours starts as a user's run does, with huge pages (`jaxrec.start`); the peers get them by the same line.

`met` says whether a bar was reached: by the median, except that a bar of 1.0 ("as fast as") holds when the worst round
is not below 0.97. It is None below five clean rounds. `memory_ratio` is our peak over the base's (see `worker`).
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.race.chip import rates

ROOT = Path(__file__).resolve().parent.parent.parent
FOREIGN = 0.15  # cores
CLEAN = 5  # rounds, below which no bar counts as reached or missed
EQUAL = 0.97  # the least ratio of any round where the bar is 1.0
MEMORY = 1.2  # the most memory, over the peer's


@dataclasses.dataclass(frozen=True)
class Entry:
    """One contender: which process does its work, and under what name. Entries of one process share it."""

    module: str
    work: str = "work"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    environment: str = ""  # whose Python runs it: "" is our own, "peers", "recbole"

    @property
    def process(self) -> tuple[str, str, str]:
        """What tells its process from another."""
        return self.module, json.dumps(dict(self.options), sort_keys=True), self.environment


class Against(NamedTuple):
    """A contender's ratio to another, and the least that it should be."""

    contender: str
    base: str
    bar: float | None = None


@dataclasses.dataclass(frozen=True)
class Race:
    """Who runs what against whom. `units` is what one call of a contender's work does."""

    name: str
    about: str
    base: str
    entries: Mapping[str, Entry]
    unit: str
    units: float
    bars: Mapping[str, float] = dataclasses.field(
        default_factory=dict
    )  # contender -> least ratio to the base
    also: tuple[Against, ...] = ()  # ratios to others than the base, each a row of its own
    limits: Mapping[str, float] = dataclasses.field(default_factory=dict)  # contender -> seconds
    tolerance: float = 1e-3  # of the answers, against the base's
    loose: Mapping[str, float] = dataclasses.field(
        default_factory=dict
    )  # contender -> its own tolerance, where it computes or keeps weights in fewer bits
    model: str = ""  # published model that it needs; not run where it was not fetched
    rounds: int = 7
    device: str = "cpu"  # what all of it runs on: "cpu" or "gpu"


@dataclasses.dataclass(frozen=True)
class Measured:
    """What the rounds of a race gave."""

    samples: Sequence[Mapping[str, Mapping[str, float]]]  # by round and contender
    rejected: int  # rounds thrown away; negative: so many were not, though others were at work
    memory_mb: Mapping[str, int] = dataclasses.field(default_factory=dict)


class Worker:
    """A contender's process, from the driver's side."""

    def __init__(self, entry: Entry, python: str, log: Path, device: str = "cpu"):
        module, options, _ = entry.process
        self.log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [python, "-m", "bench.race.worker", module, "--options", options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env=quiet_environment(device),
            )
        self.greeting = self._read()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends one request and waits for its reply. Raises RuntimeError when the process has died."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Lets the process end; kills it when it doesn't."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a contender's process died; its last words are in {self.log}")
        return json.loads(line)


ON_DEVICE = {
    "cpu": {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""},
    # contenders share the chip: none may take all of its memory from the start
    "gpu": {"JAX_PLATFORMS": "cuda,cpu", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
}


def quiet_environment(device: str = "cpu") -> dict[str, str]:
    """The same threads and device for everybody, no network, no warnings; this checkout importable by the peers too."""
    cores = str(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), cores)
    return (
        dict(os.environ)
        | threads
        | {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "PYTHONWARNINGS": "ignore",
            "TOKENIZERS_PARALLELISM": "false",
            "TRANSFORMERS_VERBOSITY": "error",
            "HF_HUB_OFFLINE": "1",
            "JAXREC_BENCH_PYTHON": sys.executable,
        }
        | ON_DEVICE[device]
    )


def run(
    race: Race, pythons: Mapping[str, str | None], logs: Path, rounds: int
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """(one race's rows, the versions its contenders gave).

    `pythons` maps an environment's name to its interpreter, or to None where there is none. A contender that is
    missing, or whose answers differ from the base's, has a row without figures and a note.
    """
    logs.mkdir(parents=True, exist_ok=True)
    workers: dict[tuple, Worker] = {}
    notes: dict[str, str] = {}
    try:
        for name, entry in race.entries.items():
            if pythons[entry.environment] is None:
                notes[name] = "not installed"
            elif entry.process not in workers:
                log = logs / f"{race.name}-{len(workers)}.log"
                python = str(pythons[entry.environment])
                workers[entry.process] = Worker(entry, python, log, race.device)
        for name, entry in race.entries.items():
            if entry.process in workers:
                notes |= refusal(name, workers[entry.process].greeting)
        able = {n: (workers[e.process], e) for n, e in race.entries.items() if n not in notes}
        agreement = compare(race, able)
        notes |= {
            n: f"answers differ by {d:.1e}"
            for n, d in agreement.items()
            if d > race.loose.get(n, race.tolerance)
        }
        able = {name: both for name, both in able.items() if name not in notes}
        samples, rejected = interleave(able, rounds)
        memory = {n: w.ask(memory=e.work)["memory_mb"] for n, (w, e) in able.items()}
    finally:
        for worker in workers.values():
            worker.close()
    pairs = [Against(n, race.base, race.bars.get(n)) for n in race.entries if n != race.base]
    if not pairs:  # alone on the track: there is no ratio, but a figure
        pairs = [Against(race.base, race.base)]
    measured = Measured(samples, rejected, memory)
    rows = [row(race, pair, measured, notes, agreement, able) for pair in (*pairs, *race.also)]
    ready = [worker.greeting.get("ready", {}) for worker in workers.values()]
    return rows, {k: v for greeting in ready for k, v in greeting.get("versions", {}).items()}


def refusal(name: str, greeting: Mapping[str, Any]) -> dict[str, str]:
    """Why this contender can't run, or nothing."""
    if "missing" in greeting:
        return {name: f"{greeting['missing']} is not installed"}
    if "failed" in greeting:
        print(f"{name}: {greeting['failed']}", file=sys.stderr)
        return {name: f"failed: {greeting['failed']}"[:160]}
    return {}


def compare(race: Race, able: Mapping[str, tuple[Worker, Entry]]) -> dict[str, float]:
    """Largest difference between each contender's answer and the base's, relative to the answer's own size."""
    import numpy as np

    if race.base not in able:
        return {}
    answers = {}
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, (worker, entry)) in enumerate(able.items()):
            saved = worker.ask(answer=entry.work, to=f"{folder}/{i}.npy")["saved"]
            if saved is not None:
                answers[name] = np.load(saved)
    if race.base not in answers:
        return {}
    wanted = answers.pop(race.base)
    size = float(np.abs(wanted).max()) or 1.0
    return {
        name: float(np.abs(got - wanted).max()) / size
        if got.shape == wanted.shape
        else float("inf")
        for name, got in answers.items()
    }


def interleave(
    able: Mapping[str, tuple[Worker, Entry]], rounds: int
) -> tuple[list[dict[str, dict]], int]:
    """(clean rounds of samples by contender, how many were thrown away). Gives up after three times as many."""
    clean: list[dict[str, dict]] = []
    dirty: list[dict[str, dict]] = []
    names = list(able)
    while names and len(clean) < rounds and len(clean) + len(dirty) < 3 * rounds:
        turn = (len(clean) + len(dirty)) % len(names)
        order = names[turn:] + names[:turn]
        sample = {name: able[name][0].ask(work=able[name][1].work) for name in order}
        calm = all(s["foreign"] <= FOREIGN for s in sample.values())
        (clean if calm else dirty).append(sample)
    if (
        len(clean) < 2
    ):  # better a number with a warning than none: `row` says that the machine was not calm
        return clean + dirty, -len(dirty)
    return clean, len(dirty)


def row(
    race: Race,
    pair: Against,
    measured: Measured,
    notes: Mapping[str, str],
    agreement: Mapping[str, float],
    able: Mapping[str, tuple[Worker, Entry]],
) -> dict[str, Any]:
    """One contender against another: median and range of the ratios of all rounds, median throughput, memory."""
    name, base, bar = pair
    out: dict[str, Any] = {"race": race.name, "contender": name, "base": base}
    out |= {"ratio": None, "lo": None, "hi": None, "n": 0, "unit": race.unit, "value": None}
    out |= {"base_value": None, "bar": bar, "limit": race.limits.get(name), "met": None}
    out |= {"memory_ratio": None, "about": race.about}
    if base in notes:
        out["note"] = f"{base}: {notes[base]}"
    if name in notes:
        return out | {"note": notes[name]}
    worker, entry = able[name]
    out["info"] = dict(worker.greeting["ready"]["info"].get(entry.work, {}))
    if name in agreement:
        out["info"]["answers_differ_by"] = float(f"{agreement[name]:.1e}")
    samples = measured.samples
    seconds = [sample[name]["seconds"] for sample in samples]
    middle = statistics.median(seconds)
    value = lambda s: s if race.unit == "s" else race.units / s
    out |= {"n": len(seconds), "value": value(middle), "rejected_rounds": abs(measured.rejected)}
    out["cores_used"] = round(statistics.median(sample[name]["cpu"] for sample in samples), 2)
    out["info"] |= {"memory_mb": measured.memory_mb.get(name)} | rates(out["info"], middle)
    if base in samples[0] and name != base:
        others = [sample[base]["seconds"] for sample in samples]
        ratios = [b / s for b, s in zip(others, seconds, strict=True)]
        out |= {"ratio": statistics.median(ratios), "lo": min(ratios), "hi": max(ratios)}
        out["base_value"] = value(statistics.median(others))
        out |= compared_memory(measured.memory_mb, name, base, able)
        out["info"]["base_memory_mb"] = measured.memory_mb.get(base)
    if measured.rejected < 0:
        return out | {"note": "other programs were running"}
    return out | {"met": reached(out)}


def compared_memory(
    memory_mb: Mapping[str, int], name: str, base: str, able: Mapping[str, tuple[Worker, Entry]]
) -> dict[str, float]:
    """`memory_ratio` of two contenders; nothing where one process does the work of both."""
    if name not in memory_mb or able[name][1].process == able[base][1].process:
        return {}
    return {"memory_ratio": round(memory_mb[name] / max(1, memory_mb[base]), 3)}


def reached(row: Mapping[str, Any]) -> bool | None:
    """Whether a row's bar or limit holds; None where there is none, or too few rounds to tell."""
    if row["n"] < CLEAN:
        return None
    if row["limit"] is not None:
        return row["value"] <= row["limit"]
    if row["bar"] is None or row["ratio"] is None:
        return None
    return row["lo"] >= EQUAL if row["bar"] == 1.0 else row["ratio"] >= row["bar"]

"""Floor 1: what a run says while it goes: a progress bar, metrics.jsonl, and TensorBoard by option.

    OUT/metrics.jsonl     one JSON object a line: {"step", "kind": "train" | "eval" | ..., "time", numbers...}
    OUT/config.json       the resolved configuration
    OUT/environment.json  git commit, versions of Python and packages, devices, the command
    OUT/tensorboard/      event files, where asked for

Only process 0 writes.
"""

import contextlib
import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from jaxrec import config as configs
from jaxrec import files
from jaxrec.results import commit, versions

_SHOWN = ("loss", "tokens/s", "examples/s")  # beside the bar, as far as they are there


class LogError(configs.RunError):
    """The log cannot be written (a full disk, say)."""


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LogError(
            f"cannot write {path}: {error.strerror}; what was saved stays as it is"
        ) from error


class RunLog:
    """The log of one run that begins (or goes on) at step `start` of `steps`.

    Lines of metrics.jsonl after `start` are dropped: they come from steps that a killed run made and that are about
    to be made again. Use it as a context, so that the bar and the files are closed.

    out: the run's folder. tensorboard: event files too. progress: a bar on stderr. title: of the bar.
    """

    def __init__(
        self,
        out: str | Path,
        steps: int,
        start: int = 0,
        *,
        tensorboard: bool = False,
        progress: bool = True,
        title: str = "",
    ):
        self.out, self.writes = Path(out), jax.process_index() == 0
        self._file = self._board = None
        if self.writes:
            with _writing(self.out / "metrics.jsonl"):
                self.out.mkdir(parents=True, exist_ok=True)
                self._file = _continued(self.out / "metrics.jsonl", start)
            if tensorboard:
                from tensorboardX import SummaryWriter

                self._board = SummaryWriter(str(self.out / "tensorboard"), purge_step=start)
        self._bar = tqdm(
            total=steps,
            initial=start,
            desc=title,
            unit="step",
            dynamic_ncols=True,
            disable=not (progress and self.writes),
        )

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        if self._file:
            self._file.close()
        if self._board:
            self._board.close()

    def tick(self) -> None:
        """One step more on the bar."""
        self._bar.update()

    def write(self, step: int, kind: str, numbers: Mapping[str, float]) -> None:
        """One line of metrics.jsonl; training numbers also stand beside the bar. Not-a-number is written as null."""
        if not self.writes:
            return
        clean = {k: float(v) if math.isfinite(v) else None for k, v in numbers.items()}
        row = {"step": step, "kind": kind, "time": round(time.time(), 3), **clean}
        with _writing(self.out / "metrics.jsonl"):
            self._file.write((json.dumps(row) + "\n").encode())
        if self._board:
            for name, value in numbers.items():
                self._board.add_scalar(f"{kind}/{name}", float(value), step)
        if kind == "train":
            shown = {k: f"{numbers[k]:.4g}" for k in _SHOWN if k in numbers}
            self._bar.set_postfix(shown, refresh=False)

    def say(self, text: str) -> None:
        """A line of plain text above the bar."""
        if self.writes:
            self._bar.write(text, file=sys.stderr)


def read_metrics(path: str | Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, of one kind or all. A last line that a kill cut short is left out."""
    rows = []
    for line in Path(path).read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return [row for row in rows if kind is None or row["kind"] == kind]


def write_provenance(out: str | Path, config: Any = None) -> None:
    """config.json (a dataclass, where given) and environment.json beside the results."""
    if jax.process_index() != 0:
        return
    out = Path(out)
    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
        if dataclasses.is_dataclass(config):
            configs.dump(config, out / "config.json")
        (out / "environment.json").write_text(json.dumps(environment(), indent=2) + "\n")


def environment() -> dict[str, Any]:
    """Git commit (None outside a repository), versions, devices and the command of this process."""
    devices = jax.devices()
    return {
        "commit": commit(),
        "command": sys.argv,
        "versions": versions(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": jax.process_count(),
    }


def _continued(path: Path, start: int) -> Any:
    """The file, opened for appending, holding only rows up to `start`."""
    kept = [row for row in read_metrics(path) if row["step"] <= start] if path.exists() else []
    files.write_json_lines(path, kept)
    return path.open(
        "ab", buffering=0
    )  # every line is in the file at once, and closing cannot fail

"""Floor 1: results of record. One JSON file per run, which says what was run, on what, and what came out.

    {"name", "rows": [...], "paired": [...], "config", "seed", "versions", "hardware", "commit", "wall_s", "trained",
     "command", ...}

The README's tables are made from such files (`make tables`), so a number that stands there can be traced to its
configuration, its versions and its machine. `commit`, `hardware` and `wall_s` are of the run that wrote the file;
`trained` says by which code, when and where its rows were made (`origin`), which is another run where a seed's numbers
were kept from before. `python -m eval.reproduce ROOM/NAME` runs a file's command again and compares.
"""

import dataclasses
import datetime
import importlib.metadata
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrec import files

# What the rows of the known benchmarks must carry; they may carry more.
ROW_KEYS = {
    "personalize": ("row", "k", "accuracy", "accuracy_lo", "accuracy_hi", "nll", "ece"),
    "recommend": ("model", "dataset", "protocol", "seeds"),
    "search": ("n_vectors", "index", "p50_ms", "p95_ms", "recall@10", "rss_mb", "build_s"),
    "bench": ("race", "contender", "base", "ratio", "lo", "hi", "n", "unit", "value"),
}
# And one of these groups: a recommender ranks items, or predicts ratings.
EITHER_KEYS = {"recommend": (("R@5", "N@5", "R@10", "N@10"), ("RMSE", "MAE"))}
PAIRED_KEYS = ("a", "b", "k", "metric", "diff", "lo", "hi")
WRITES_TO = ("--out", "--runs", "--results", "--parts.out")
ORIGIN_KEYS = ("commit", "at", "machine")
PACKAGES = ("jaxrec", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "transformers")
_BEGUN_AT = time.time()  # of this process, as nearly as this module can tell


def write_results(
    out_dir: str | Path,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    paired: Sequence[Mapping[str, Any]] = (),
    config: Any = None,
    seed: int = 0,
    wall_s: float = 0.0,
    *,
    headline: str | None = None,
    filename: str = "results.json",
    peers: Mapping[str, str] | None = None,
    **more: Any,
) -> Path:
    """Writes `out_dir/filename`, whole or not at all, and returns its path.

    Args:
      name: the benchmark's name. Rows of the known ones (`ROW_KEYS`) are checked.
      rows, paired: flat dicts. A number that is not finite becomes null, since JSON has no NaN. A row whose numbers
        were kept from an earlier run says so by `trained`, a list of `origin`s; other rows are this run's.
      config: the resolved configuration, a dataclass or anything made of plain values.
      seed: of the run. wall_s: seconds it took.
      headline: the row that was named, before the run, as the one that counts.
      peers: versions of packages beyond our own, of a race's peers say.
      more: further top-level fields; `trained` and `command` stand in place of what is found here.
    Raises:
      ValueError: a row lacks a key, an origin lacks one, or `headline` names no row.
      OSError: the file can't be written (a full disk); an older file of that name stays as it was.
    """
    _check(name, rows, ROW_KEYS.get(name, ()), "row")
    _check_either(name, rows, EITHER_KEYS.get(name, ((),)))
    if name == "personalize":
        _check(name, paired, PAIRED_KEYS, "paired row")
        known = {row["row"] for row in rows}
        if headline is not None and headline not in known:
            raise ValueError(f"{name}: headline {headline!r} is none of the rows {sorted(known)}")
    record = {"name": name, "rows": list(rows), "paired": list(paired), "headline": headline}
    record |= {"config": config, "seed": seed, "versions": versions() | dict(peers or {})}
    record |= {"hardware": hardware(), "commit": commit(), "wall_s": round(wall_s, 2)}
    own = origin()
    of_rows = distinct(one for row in rows for one in row.get("trained") or (own,))
    record |= {"trained": of_rows or [own], "command": command(), **more}
    _check(name, record["trained"], ORIGIN_KEYS, "origin")
    path = Path(out_dir) / filename
    files.write_json(path, _plain(record), allow_nan=False)
    return path


def conclude(written: Sequence[str | Path], then: Sequence[str | Path] = ()) -> None:
    """Prints the last line of a stage: what it wrote, and the command that goes on from there.

    written: the folders. then: the words of the command, with capitals for what the reader puts in; none if there is
    none.
    """
    further = f"; next: {shlex.join(map(str, then))}" if then else ""
    print(f"wrote {', '.join(map(str, written))}{further}", flush=True)


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Prints rows as aligned text: names to the left, numbers to the right, absent values as a dash.

    Without `columns` all are printed whose values are single ones: curves and origins are for the file.
    """
    single = lambda value: not isinstance(value, list | tuple | Mapping)
    columns = list(columns or dict.fromkeys(k for row in rows for k, v in row.items() if single(v)))
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    numeric = [
        all(isinstance(row.get(column), int | float | None) for row in rows) for column in columns
    ]
    for line in [columns, ["-" * width for width in widths], *cells]:
        padded = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]
        print("  ".join(padded).rstrip())


def origin() -> dict[str, str | None]:
    """Which code makes numbers now, when, and on which machine: what a run that keeps numbers keeps beside them."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"commit": commit(), "at": now, "machine": machine(hardware())}


def kept_origin(path: Path) -> dict[str, str | None]:
    """Of numbers that an older run kept in a file without saying whose they are: the file's time, and no more."""
    written = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
    return {
        "commit": None,
        "at": written.isoformat(timespec="seconds"),
        "machine": None,
        "note": "kept from an earlier run that did not say by which code",
    }


def distinct(origins: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each commit and machine once, with the last of its times."""
    found: dict[tuple, dict[str, Any]] = {}
    for one in origins:
        key = tuple(value for name, value in one.items() if name != "at")
        if key not in found or str(one.get("at")) > str(found[key].get("at")):
            found[key] = dict(one)
    return list(found.values())


def machine(host: Mapping[str, Any]) -> str:
    """`hardware()` in a line: devices and memory."""
    devices = ", ".join(host["accelerators"]) or f"{host['cores']} cores of {host['cpu']}"
    return f"{devices}, {host['memory_gb']} GB"


def command() -> str | None:
    """The command line that this process was started by, `python -m ...`; None where it was no such module.

    Where it writes to is left out: a run of record says what it did, and that is the same in any folder.
    """
    words = list(sys.orig_argv)
    if "-m" not in words[:-1]:
        return None
    words = words[words.index("-m") :]
    for flag in WRITES_TO:
        while flag in words[:-1]:
            del words[words.index(flag) : words.index(flag) + 2]
    return shlex.join(["python", *words])


def hardware() -> dict[str, Any]:
    """The machine: `cpu`, `cores` this process may use, `memory_gb`, and the accelerators jax has found.

    jax is asked only where it is in use already: asking starts its backend.
    """
    accelerators: list[str] = []
    if "jax" in sys.modules:
        devices = sys.modules["jax"].devices()
        accelerators = [d.device_kind for d in devices if d.platform != "cpu"]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gb": round(memory / 2**30, 1),
        "accelerators": accelerators,
    }


def commit() -> str | None:
    """The git commit of the code, with `+changes` where it is not what runs; None outside a checkout.

    That is where the tree differs from it, or where it was made after this process had begun.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        # Results are the output of a run, so a new one does not make the code another code.
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results")
        head, made_at = git("show", "-s", "--format=%H %ct", "HEAD").split()
        return head + ("+changes" if changed or int(made_at) > _BEGUN_AT else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _check(name: str, rows: Sequence[Mapping[str, Any]], keys: Sequence[str], what: str) -> None:
    for i, row in enumerate(rows):
        missing = [key for key in keys if key not in row]
        if missing:
            raise ValueError(f"{name}: {what} {i} lacks {', '.join(missing)}: it has {sorted(row)}")


def _check_either(
    name: str, rows: Sequence[Mapping[str, Any]], groups: Sequence[Sequence[str]]
) -> None:
    for i, row in enumerate(rows):
        if not any(set(group) <= set(row) for group in groups):
            wanted = " nor ".join(", ".join(group) for group in groups)
            raise ValueError(f"{name}: row {i} has neither {wanted}: it has {sorted(row)}")


def versions() -> dict[str, str]:
    """Python and the packages that results depend on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux: the platform module knows as much as there is to know
    return platform.processor() or platform.machine()


def _plain(value: Any) -> Any:
    """Dataclasses, paths, sets and array scalars as what JSON knows; a number that is not finite as None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(_plain, value))
    if hasattr(value, "tolist"):  # numpy and jax, scalars and arrays
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)

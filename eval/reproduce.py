"""Does a file of record come out again? Runs its command anew, in folders of its own, and compares every number.

    python -m eval.reproduce recommend/world_sampled
    python -m eval.reproduce personalize/popquorn --tolerance 0.02      # on another machine, say

Nothing that an earlier run kept is taken, and nothing of record is written. A number may differ by `--tolerance` of
itself, or by that part of 0.1 where it is smaller; times, memory and the origins of rows are not compared. The exit
status is 0 where all numbers agree, 1 where one does not or a row is missing, 2 where the file can't be run again.
Training again takes the time of the file's rows (`wall_s`); data are found as in any run (JAXREC_DATA).
"""

import argparse
import difflib
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrec import results
from jaxrec.config import RunError

Row = Mapping[str, Any]

FOLDERS = ("out", "runs", "results")  # fields of configs that name where a run writes
RUNS = ("eval", "bench", "train", "jaxrec")  # packages whose modules a record may name
# What tells one row of a file from another.
NAMES = ("row", "model", "dataset", "protocol", "split", "set", "label", "stage", "tenants", "k")
# Times, speeds, memory: another run's are others.
NOISE = re.compile(r"(^|_)(s|ms|mb|gb|us)$|_ms_|_per_|^(ratio|value|lo|hi|rss|met)$|malloc|seconds")
SMALL = 0.1


class CannotReproduce(RunError, ValueError):
    """A file of record that can't be run again, and why."""

    status = 2


def main(argv: Sequence[str]) -> int:
    """Runs a file's command again and says what differs; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="ROOM/NAME of results/, recommend/world_sampled say")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="a part of the number")
    parser.add_argument("--results", type=Path, default=Path("results"))
    flags = parser.parse_args(argv)
    if not 0 <= flags.tolerance < 1:
        raise CannotReproduce(
            f"--tolerance is a part of a number, from 0 to 1, not {flags.tolerance}"
        )
    record = read(flags.results, flags.name)
    print(told(record), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        again = run(record, Path(folder))
    return show(*compare(record["rows"], again["rows"], flags.tolerance), flags.tolerance)


def read(root: Path, name: str) -> dict[str, Any]:
    """The file of record of a name. Raises CannotReproduce where there is none, or it can't be read."""
    path = root / f"{name.removesuffix('.json')}.json"
    if not path.is_file():
        there = sorted(str(p.relative_to(root).with_suffix("")) for p in root.glob("*/*.json"))
        near = [one for one in there if Path(name).name in one]
        near = near or difflib.get_close_matches(name, there, n=8, cutoff=0.6) or there
        raise CannotReproduce(f"no file {path}; there are {', '.join(near[:8])}")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CannotReproduce(f"{path} is no JSON: {error}") from None
    if not isinstance(record, dict) or not record.get("rows") or not record.get("command"):
        raise CannotReproduce(f"{path} names no command and no rows: it can't be run again")
    return record


def told(record: Row) -> str:
    """By what the rows were made, and by what they are made now."""
    then = [
        one.get("commit") or one.get("note") or "unknown" for one in record.get("trained") or ()
    ]
    now = results.versions()
    other = [
        f"{name} {version} (now {now.get(name, 'absent')})"
        for name, version in (record.get("versions") or {}).items()
        if now.get(name) != version and name in ("python", "jax", "numpy")
    ]
    lines = [f"recorded: {record['command']}", f"  by {'; '.join(then) or 'unknown'}"]
    lines += [f"  with {', '.join(other)}"] if other else []
    return "\n".join([*lines, f"now: commit {results.commit()}"])


def words(record: Row, folder: Path) -> list[str]:
    """The command's words, with all that it writes led into `folder`.

    Raises CannotReproduce for a command that is no `python -m` of ours: a file's text starts nothing else.
    """
    said = shlex.split(record["command"])
    if said[:2] != ["python", "-m"] or said[2].split(".")[0] not in RUNS:
        raise CannotReproduce(f"{record['command']!r} is no `python -m eval...`: it is not run")
    flags = []
    for name in folders(record.get("config") or {}):
        flags += [f"--{name}", str(folder / name)]
        if f"--{name}" in said:
            at = said.index(f"--{name}")
            del said[at : at + 2]
    if not flags:
        raise CannotReproduce(
            "its configuration names no folder to write to: another run would write over the file of record"
        )
    return [sys.executable, *said[1:], *flags]


def folders(config: Any, prefix: str = "") -> Iterator[str]:
    """The dotted names of the fields that say where a run writes: `out`, `parts.out`."""
    for name, value in config.items() if isinstance(config, Mapping) else ():
        if name in FOLDERS and isinstance(value, str):
            yield prefix + name
        elif name == "parts":
            yield from folders(value, f"{prefix}{name}.")


def run(record: Row, folder: Path) -> dict[str, Any]:
    """The record that the command writes now. Raises CannotReproduce where it fails or writes none."""
    command = words(record, folder)
    print("running:", shlex.join(["python", *command[1:]]), flush=True)
    status = subprocess.run(command, check=False).returncode
    if status:
        raise CannotReproduce(f"the command ended with status {status}")
    found = []
    for path in sorted(folder.rglob("*.json"), key=lambda path: path.stat().st_mtime):
        read_again = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(read_again, dict) and read_again.get("name") == record["name"]:
            found.append(read_again)
    if not found:
        raise CannotReproduce("the command wrote no file of record")
    return found[-1]


def compare(
    old: Sequence[Row], new: Sequence[Row], tolerance: float
) -> tuple[list[dict[str, Any]], list[str], int]:
    """(numbers that differ by more than the tolerance, rows that are missing, how many numbers were compared).

    old, new: rows of record and those of now; further rows and further columns of now are no difference.
    """
    waiting: dict[tuple, list[Row]] = {}
    for row in new:
        waiting.setdefault(_name(row), []).append(row)
    differing, missing, compared = [], [], 0
    for row in old:
        if not (same := waiting.get(_name(row))):
            missing.append(", ".join(map(str, _name(row))))
            continue
        again = same.pop(0)
        for key, then in row.items():
            if not _counts(key, then):
                continue
            compared += 1
            now = again.get(key)
            if not _counts(key, now) or abs(now - then) > tolerance * max(abs(then), SMALL):
                said = _name(row)
                differing.append(
                    {"row": ", ".join(map(str, said)), "number": key, "then": then, "now": now}
                )
    return differing, missing, compared


def _name(row: Row) -> tuple:
    return tuple(row[name] for name in NAMES if row.get(name) is not None)


def _counts(key: str, value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and key not in NAMES and not NOISE.search(key)


def show(differing: Sequence[Row], missing: Sequence[str], compared: int, tolerance: float) -> int:
    """Prints what differs; gives the exit status. Raises CannotReproduce where there was nothing to compare.

    differing, missing, compared: as of `compare`. tolerance: which was allowed.
    """
    if not compared and not missing:
        raise CannotReproduce("there is nothing to compare but times and memory")
    print()
    if differing:
        results.print_table(differing)
    for row in missing:
        print(f"missing: {row}")
    allowed = f"{tolerance:g} of the number (of {SMALL:g}, where it is smaller)"
    if differing or missing:
        print(
            f"not reproduced: {len(differing)} of {compared} numbers differ by more than {allowed}"
        )
        return 1
    print(f"reproduced: {compared} numbers agree within {allowed}")
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except RunError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        raise SystemExit(error.status) from None

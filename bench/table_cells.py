"""What the tables of README.md are made of: cells, lines, and the small print under each table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxrec import results
from jaxrec.config import RunError

Record = dict[str, Any]


class NoProvenance(RunError, ValueError):
    """A file of record that does not say by which code, when and where its rows were made."""


def read_record(path: Path) -> Record:
    """A file of record. Raises NoProvenance where its rows can't be traced, so that no table is made of it."""
    record = json.loads(path.read_text())
    missing = [
        key
        for key in ("commit", "hardware", "versions", "wall_s", "trained")
        if not _said(record, key)
    ]
    for one in record.get("trained") or ():
        # What isn't known is said in a note.
        missing += [
            f"trained.{key}"
            for key in results.ORIGIN_KEYS
            if not one.get(key) and not one.get("note")
        ]
    if missing:
        raise NoProvenance(
            f"{path} has no {', '.join(dict.fromkeys(missing))}: no table is made of rows that can't be traced; "
            "run it again"
        )
    return record


def _said(record: Record, key: str) -> bool:
    return record.get(key) is not None and record[key] not in ({}, [], "")


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table: its head and its lines, cell by cell."""
    return "\n".join(
        "| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *lines]
    )


def number(value: float | None) -> str:
    """Four digits, or a dash."""
    return "-" if value is None else f"{value:.4f}"


def interval(row: Record | None, metric: str) -> str:
    """A value with its 95% interval, as far as the row has them."""
    if row is None or row[metric] is None:
        return "-"
    lo, hi = row.get(f"{metric}_lo"), row.get(f"{metric}_hi")
    spread = "" if lo is None or hi is None else f" ({lo:.3f} - {hi:.3f})"
    return f"{row[metric]:.3f}{spread}"


def provenance(record: Record) -> str:
    """One line in small print: command, machine, versions, the commits and days of the training, time."""
    said = [machine(record), trained(record), f"{record['wall_s'] / 60:.1f} min"]
    command = f"`{record['command']}` on " if record.get("command") else ""
    return f"<sub>{command}{'; '.join(said)}.</sub>"


def trained(record: Record) -> str:
    """By which commits the rows were made, and when; `+ changes` where the tree was not clean."""
    told = []
    for one in record["trained"]:
        day = (one["at"] or "")[:10]
        said = f"commit {short(one['commit'])}" if one["commit"] else one["note"]
        told.append(", ".join([said, day] if day else [said]))
    return "; ".join(told)


def short(commit: str) -> str:
    """Ten digits of a commit, and whether the tree differed from it."""
    return commit[:10] + (" + changes" if commit.endswith("+changes") else "")


def machine(record: Record) -> str:
    """Devices, memory, versions."""
    versions = record["versions"]
    packages = [name for name in ("jax", "torch") if name in versions]
    said = [results.machine(record["hardware"]), f"Python {versions['python']}"]
    return "; ".join([*said, *(f"{name} {versions[name]}" for name in packages)])

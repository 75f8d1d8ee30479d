"""What the tables of README.md are made of: cells, lines, and the small print under each table."""

from collections.abc import Sequence
from typing import Any

Record = dict[str, Any]


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
    """One line in small print: command, machine, versions, commit, time."""
    said = [machine(record), f"commit {(record['commit'] or 'unknown')[:10]}"]
    said.append(f"{record['wall_s'] / 60:.1f} min")
    command = f"`{record['command']}` on " if record.get("command") else ""
    return f"<sub>{command}{'; '.join(said)}.</sub>"


def machine(record: Record) -> str:
    """Devices, memory, versions."""
    host, versions = record["hardware"], record["versions"]
    devices = ", ".join(host["accelerators"]) or f"{host['cores']} cores of {host['cpu']}"
    packages = [name for name in ("jax", "torch") if name in versions]
    said = [f"{devices}, {host['memory_gb']} GB", f"Python {versions['python']}"]
    return "; ".join([*said, *(f"{name} {versions[name]}" for name in packages)])

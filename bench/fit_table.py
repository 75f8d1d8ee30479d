"""The table of docs/tpu.md, made from results/fit: what fits on which TPU slice, and what it sends."""

from collections.abc import Sequence

from bench.table_cells import Record, machine, markdown, short

_HEAD = (
    "stage", "shape", "slice", "data x fsdp x tensor", "batch", "remat", "fits", "arguments + temporaries, GB a chip",
    "sent, GB a chip", "of paper", "by", "replicated activation", "PFLOP (made twice)", "at best, s", "waits for",
    "MFU at most",
)  # fmt: skip
_SHORT = {
    "all-gather": "AG", "reduce-scatter": "RS", "all-reduce": "AR", "all-to-all": "A2A", "collective-permute": "CP",
}  # fmt: skip
_ORDER = (
    "sft_lora",
    "sft_nf4",
    "sft_full",
    "pretrain",
    "dpo",
    "ppo_update",
    "ppo_rollout",
    "retrofit",
    "universal",
)


def fit(records: Sequence[tuple[str, Record]]) -> str:
    """One line a row, by stage and shape; then which machine compiled them, at which commits."""
    rows = sorted((record["rows"][0] for _, record in records), key=_place)
    machines = dict.fromkeys(machine(record) for _, record in records)
    compilers = dict.fromkeys(
        f"{name} {version}"
        for _, record in records
        for name, version in record["rows"][0]["compile_by"].items()
    )
    commits = dict.fromkeys(short(row["compile_commit"] or "unknown") for row in rows)
    minutes = sum(record["wall_s"] for _, record in records) / 60
    small = (
        f"<sub>{len(rows)} rows, compiled by {', '.join(compilers)} on {' | '.join(machines)}, commits"
        f" {', '.join(commits)}, {minutes:.0f} min in all. AG: all-gather, RS: reduce-scatter, AR: all-reduce,"
        " A2A: all-to-all, CP: collective-permute, each with its GB.</sub>"
    )
    return "\n\n".join([markdown(_HEAD, [_line(row) for row in rows]), small])


def _place(row: Record) -> tuple:
    stage = _ORDER.index(row["stage"]) if row["stage"] in _ORDER else len(_ORDER)
    return stage, row["stage"], row["shape"], row["topology"], row["mesh"], row["remat"]


def _line(row: Record) -> list[str]:
    accum = f" in {row['accum']}" if row["accum"] > 1 else ""
    first = [
        row["stage"], row["shape"], row["topology"], row["mesh"],
        f"{row['rows']:,} x {row['length']:,}{accum}",
        # Where nothing goes back there is nothing to make twice.
        "-" if row["remat"] != "none" and not row["flops_again"] else row["remat"],
    ]  # fmt: skip
    made = f"{row['flops'] / 1e15:.3g} ({row['flops_again'] / 1e15:.2g})"
    if not row["fits"]:
        needed = "more" if row["needed_gb"] is None else f"{row['needed_gb']:.1f}"
        return [*first, "**no**", f"{needed} of {row['hbm_gb']}", *"-----"[:4], made, *"---"]
    kinds = sorted(row["collectives"].items(), key=lambda item: -item[1]["gb"])
    by = ", ".join(f"{_SHORT[kind]} {_size(of['gb'])}" for kind, of in kinds if of["gb"] >= 0.0005)
    replicated = row.get("replicated_gb")
    return [
        *first, "yes", f"{row['arguments_gb']:.2f} + {row['temporaries_gb']:.2f}", _size(row["sent_gb"]),
        "-" if row["of_paper"] is None else f"{row['of_paper']:.2f}", by or "-",
        "-" if replicated is None else "none" if not replicated else f"{replicated:.3f} GB",
        made, f"{row['step_s']:.3g}", row["bound"], f"{row['mfu_at_most']:.0%}",
    ]  # fmt: skip


def _size(gb: float) -> str:
    return f"{gb:,.0f}" if gb >= 100 else f"{gb:.3g}"

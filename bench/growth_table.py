"""The table of growth in docs/speed.md, made from results/growth."""

from collections.abc import Sequence

from bench.table_cells import Record, markdown, provenance


def growth(records: Sequence[tuple[str, Record]]) -> str:
    """One line an axis: what was measured at both ends, and the exponents of time and memory beside the paper's."""
    head = ["axis", "a step is", "from - to", "time", "slope", "on paper"]
    head += ["memory", "slope", "on paper"]
    parts = []
    for name, record in records:
        lines = []
        for slope in record["slopes"]:
            own = [row for row in record["rows"] if row["axis"] == slope["axis"]]
            ends = own[0], own[-1]
            times = " - ".join(_short(row["step_ms"]) for row in ends)
            sizes = " - ".join(_short(row["peak_mb"]) for row in ends)
            lines.append(
                [
                    slope["axis"], slope["step"], f"{slope['from']:,} - {slope['to']:,}",
                    f"{times} ms", _slope(slope["slope_measured"]), _slope(slope["slope_expected"]),
                    f"{sizes} MB", _slope(slope["memory_measured"]), _slope(slope["memory_expected"]),
                ]
            )  # fmt: skip
        machine = record["machine"]
        reached = f"{machine['flops'] / 1e9:.0f} GFLOP/s in a matrix product, "
        reached += f"{machine['moved'] / 1e9:.0f} GB/s in a sum"
        noise = max(row["others"] for row in record["rows"])
        said = f"**{name}**: {reached}; other programs used {noise:.2f} cores at most"
        parts += [said, markdown(head, lines), provenance(record)]
    return "\n\n".join(parts)


def _slope(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}"

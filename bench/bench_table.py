"""The table of the speed races: every ratio with its range, its bar and whether it was reached, and the memory."""

from collections.abc import Sequence

from bench.table_cells import Record, machine, markdown, trained

HEAD = ("race", "contender", "against", "ratio", "range", "rounds", "speed", "bar", "memory")


def bench(records: Sequence[tuple[str, Record]]) -> str:
    """All races in one table; a race whose peer was missing says so in its row."""
    lines = [[*_cells(row)] for _, record in records for row in record["rows"]]
    return "\n\n".join([markdown(HEAD, lines), _provenance([record for _, record in records])])


def _cells(row: Record) -> Sequence[str]:
    spread = "-" if row["lo"] is None else f"{row['lo']:.2f} - {row['hi']:.2f}"
    value = "-" if row["value"] is None else f"{row['value']:,.4g} {row['unit']}"
    ratio = row.get("note", "-") if row["ratio"] is None else f"**{row['ratio']:.2f}**"
    memory = row.get("memory_ratio")
    names = (row["race"], row["contender"], row["base"])
    return (
        *names,
        ratio,
        spread,
        str(row["n"]),
        value,
        _bar(row),
        "-" if memory is None else f"{memory:.2f}",
    )


def _bar(row: Record) -> str:
    """Such as "2.0, met", "10 s, missed"; alone where there were too few rounds to tell."""
    limit = row.get("limit")
    if limit is None and row.get("bar") is None:
        return "-"
    said = f"{limit:g} s" if limit is not None else f"{row['bar']}"
    return said + {True: ", met", False: ", missed", None: ""}[row.get("met")]


def _provenance(records: Sequence[Record]) -> str:
    """The machine, commits and time in small print: races are run one by one, and not all of them know torch."""
    commits = sorted({trained(record) for record in records})
    fullest = max(records, key=lambda record: len(record["versions"]))
    said = [machine(fullest), "; ".join(commits)]
    said.append(f"{sum(record['wall_s'] for record in records) / 60:.0f} min")
    return f"<sub>`make bench` on {'; '.join(said)}.</sub>"

"""The table of encoders on questions with one right text."""

from collections.abc import Sequence

from bench.table_cells import Record, interval, markdown, provenance

HEAD = ("queries -> texts", "encoder", "R@1", "R@5", "R@10", "MRR")
MEASURES = ("R@1", "R@5", "R@10", "mrr")


def encoders(records: Sequence[tuple[str, Record]]) -> str:
    """All sets in one table, a line an encoder; under it the paired gaps, and the small print of each file."""
    lines, gaps = [], []
    for name, record in records:
        for row in record["rows"]:
            size = f"{name}: {row['queries']:,} -> {row['texts']:,}"
            bold = f"**{row['row']}**" if row["row"] == record["headline"] else row["row"]
            lines.append([size, bold, *(interval(row, measure) for measure in MEASURES)])
        gaps += [
            f"{name}, {p['a']} - {p['b']}, {p['metric']}: {p['diff']:+.3f} [{p['lo']:+.3f}, {p['hi']:+.3f}]"
            for p in record["paired"]
            if p["metric"] in ("R@1", "R@10")
        ]
    small = [provenance(record) for _, record in records]
    paired = ["Paired: " + "; ".join(gaps) + "."] if gaps else []
    return "\n\n".join([markdown(HEAD, lines), *paired, *small])

"""The tables of what users want, read turn by turn."""

from collections.abc import Sequence

from bench.table_cells import Record, interval, markdown, number, provenance


def dialogue(records: Sequence[tuple[str, Record]]) -> str:
    """A row a way of reading, by whether training knew the services; then the learned one by service."""
    parts = []
    for name, record in records:
        lines = [
            [
                *(row["services"], row["row"], str(row["dialogues"]), f"{row['n']:,}"),
                *(interval(row, "goal"), interval(row, "joint")),
            ]
            for row in record["rows"]
        ]
        head = ["services", "read by", "dialogues", "turns", "goal", "joint values"]
        parts.append(f"**{name}**: learned from {record['learned_from']:,} dialogues")
        parts.append(markdown(head, lines))
        own = [
            [
                *(row["service"], "yes" if row["known"] else "no", f"{row['n']:,}"),
                *(number(row["goal"]), number(row["joint"])),
            ]
            for row in record["services"]
        ]
        parts.append(
            markdown(["service", "known in training", "turns", "goal", "joint values"], own)
        )
        parts.append(provenance(record))
    return "\n\n".join(parts)

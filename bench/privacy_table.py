"""The tables of docs/privacy.md: what the filter finds, and what it takes for private."""

from collections.abc import Sequence

from bench.table_cells import Record, interval, markdown, number, provenance


def privacy(records: Sequence[tuple[str, Record]]) -> str:
    """Each record by its own kind."""
    return "\n\n".join(KINDS[record["name"]](record) for _, record in records)


def _filter(record: Record) -> str:
    """Recall by kind and language, false alarms on others' texts, round trips."""
    head = [
        "language",
        "kind",
        "planted",
        "recall",
        "precision",
        "F1",
        "F1, loosely",
        "alarms per 1,000 words",
    ]
    lines = [
        [row["language"], row["kind"], str(row["planted"])]
        + [number(row.get(key)) for key in ("recall", "precision", "f1", "f1_loose")]
        + [f"{row['alarms_per_1000']:.2f}"]
        for row in record["rows"]
    ]  # fmt: skip
    parts = [markdown(head, lines)]
    kinds = dict.fromkeys(
        key for row in record["alarms"] for key in row if key not in ("texts", "words", "all")
    )
    lines = [
        [
            row["texts"],
            f"{row['words']:,}",
            f"{row['all']:.2f}",
            *(f"{row.get(kind) or 0:.2f}" for kind in kinds),
        ]
        for row in record["alarms"]
    ]
    parts += ["Found for each 1,000 words of texts in which next to nothing is private:"]
    parts += [markdown(["texts", "words", "all", *kinds], lines)]
    said = "; ".join(
        f"{row['texts']:,} texts by {row['finders']}, {row['masked']:,} of them masked: {row['not restored']} not "
        f"restored, {row['told to others']} told to others"
        for row in record["round_trips"]
    )
    parts += [f"unmask(mask(x)) == x: {said}."]
    parts += [f"Loading takes {record['loading_cpu_s']} CPU seconds.", provenance(record)]
    return "\n\n".join(parts)


def _private(record: Record) -> str:
    """Accuracy and loss by what is hidden of people and of events, and what an attacker still tells."""
    head = [
        "epsilon of the weights",
        "epsilon of p",
        "accuracy",
        "NLL",
        "AUC, people",
        "AUC, events",
        "moved",
    ]
    lines = [
        [row["weights"], row["p"]]
        + [interval({key: None} | row, key) for key in ("accuracy", "nll", "people", "events")]
        + [number(row.get("moved"))]
        for row in record["rows"]
    ]
    noise = "; ".join(
        f"epsilon {epsilon}: {of['people']:.2f} and {of['events']:.2f}"
        for epsilon, of in record["noise"].items()
        if of["people"] is not None
    )
    said = f"**{record['dataset']}**, {record['tested']:,} judgements of unseen people"
    parts = [said, markdown(head, lines)]
    parts += [
        f"Noise in clips, of the weights' steps and of p's: {noise}; delta {record['config']['delta']:g}."
    ]
    return "\n\n".join([*parts, provenance(record)])


KINDS = {"privacy": _filter, "private": _private}

"""Does p carry the person? A table a data set of people's own judgements, and what p knows beyond a bias."""

from collections.abc import Sequence

from bench.table_cells import Record, interval, markdown, number, provenance


def personalize(records: Sequence[tuple[str, Record]]) -> str:
    """One table a data set: a row of accuracies over k, then the gaps of the headline row at the largest k."""
    parts = []
    for name, record in records:
        ks = sorted({row["k"] for row in record["rows"]})
        at = {(row["row"], row["k"]): row for row in record["rows"]}
        head = ["row", *(f"k = {k}" for k in ks), f"NLL, k = {ks[-1]}", f"ECE, k = {ks[-1]}"]
        lines = []
        for row in dict.fromkeys(row["row"] for row in record["rows"]):
            label = f"**{row}**" if row == record["headline"] else row
            last = at.get((row, ks[-1]), {})
            cells = [interval(at.get((row, k)), "accuracy") for k in ks]
            lines.append([label, *cells, number(last.get("nll")), number(last.get("ece"))])
        parts += [f"**{name}**, accuracy with 95% intervals over people", markdown(head, lines)]
        parts += _beyond_bias(record, ks)
        gaps = [
            f"{p['a']} - {p['b']}, {p['metric']} at k = {p['k']}: "
            f"{p['diff']:+.4f} [{p['lo']:+.4f}, {p['hi']:+.4f}]"
            for p in record["paired"]
            if p["k"] == ks[-1] and p["a"] == record["headline"]
        ]
        parts += ["Paired: " + "; ".join(gaps) + "."] if gaps else []
        parts.append(provenance(record))
    return "\n\n".join(parts)


def _beyond_bias(record: Record, ks: Sequence[int]) -> list[str]:
    """What a row knows of a person beyond an offset of their labels, at every k: it minus own_bias."""
    against = [p for p in record["paired"] if p["b"] == "own_bias"]
    tables = []
    for row in dict.fromkeys(p["a"] for p in against):
        at = {(p["metric"], p["k"]): p for p in against if p["a"] == row}
        lines = []
        for metric, said in (("accuracy", "accuracy"), ("nll", "NLL")):
            cells = [
                f"{p['diff']:+.3f} [{p['lo']:+.3f}, {p['hi']:+.3f}]"
                for k in ks
                if (p := at.get((metric, k)))
            ]
            lines.append([said, *cells])
        tables.append(markdown([f"{row} - own_bias", *(f"k = {k}" for k in ks)], lines))
    return tables

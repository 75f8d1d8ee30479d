"""README's table of the PEFT methods, made from results/peft."""

from collections.abc import Sequence

from bench.table_cells import Record, markdown, number, provenance


def peft(records: Sequence[tuple[str, Record]]) -> str:
    """One table a task: a row a method; then what the same methods train of a 7B model, and what was claimed of it."""
    parts = []
    for name, record in records:
        if record["name"] == "peft_counted":
            parts.append(_counted(record))
            continue
        measure = record["task"]["measure"]
        head = ["method", measure, "nats a token", "trained", "of the model", "rate"]
        ended = any(row.get("steps") for row in record["rows"])
        head += ["best step, of"] * ended + ["on disk", "peak memory", "a step"]
        decoded = any(row.get("decode_live") for row in record["rows"])
        head += ["decoding, adapter live", "merged"] if decoded else []
        lines = []
        for row in record["rows"]:
            spread = lambda key, row=row: (
                number(row[key])
                + (f" ± {row[f'{key}_sd']:.4f}" if row.get(f"{key}_sd") is not None else "")
                + (
                    f" ({row[f'{key}_lo']:.3f} - {row[f'{key}_hi']:.3f})"
                    if row.get(f"{key}_hi") is not None
                    else ""
                )
            )
            cell = lambda key, form, unit=1.0, row=row: (
                "-" if row.get(key) is None else form.format(row[key] / unit)
            )
            lines.append([row["method"], spread(measure), spread("nll"), f"{row['parameters']:,}"])
            lines[-1] += [cell("percent", "{:.2f} %"), cell("rate", "{:g}")]
            steps = f"{row['step']}, {row['steps']}" if row.get("steps") else "-"
            lines[-1] += [steps] * ended
            lines[-1] += [cell("bytes", "{:,.0f} KB", 1e3), cell("peak_mb", "{:,.0f} MB")]
            lines[-1] += [cell("step_ms", "{:.0f} ms")]
            lines[-1] += [cell(f"decode_{k}", "{:.2f}x") for k in ("live", "merged")] * decoded
        facts = record["task"]
        rows = ", ".join(f"{facts[part]:,} {part}" for part in ("train", "valid", "test"))
        base = record.get("backbone") or {}
        size = f" on {base['parameters'] / 1e6:,.1f} million parameters" if base else ""
        parts += [f"**{name}**{size} ({rows}, {facts['templates']:,} templates)"]
        parts.append(markdown(head, lines))
        parts.append(provenance(record))
    return "\n\n".join(parts)


def _counted(record: Record) -> str:
    """Of a Llama-2-7B, from its shapes."""
    sizes = [
        [row["method"], f"{row['parameters']:,}", f"{row['percent']:.4g} %", f"{row['mb']:,.1f} MB"]
        for row in record["rows"]
    ]
    cells = lambda row: (row["claim"], row["specification"], f"{row['parameters']:,}")
    said = [
        [*cells(row), f"{row['percent']:.3g} %", "yes" if row["holds"] else "no"]
        for row in record["claims"]
    ]
    head = ["claim", "specification", "counted", "of the model", "so"]
    return "\n\n".join(
        [
            "**Llama-2-7B**, counted from its shapes",
            markdown(["method", "trained", "of the model", "in f32"], sizes),
            markdown(head, said),
        ]
    )

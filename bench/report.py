"""The tables of README.md and docs/, made from the files of record in results/.

    python -m bench.report                    writes them all
    python -m bench.report docs/search.md     those of one page
    python -m bench.report --check            changes nothing; exit status 1 where a page is not what the files say

A table stands between `<!-- table:NAME -->` and `<!-- /table -->`. NAME is a folder of results/ (all its files), one
file of it (`personalize`, `personalize/popquorn`), or one of the short ones of `bench.brief_tables` (`brief/speed`).
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.bench_table import bench
from bench.brief_tables import brief
from bench.dialogue_table import dialogue
from bench.encoders_table import encoders
from bench.fit_table import fit
from bench.growth_table import growth
from bench.peft_table import peft
from bench.people_table import personalize
from bench.privacy_table import privacy
from bench.table_cells import Record, read_record
from bench.table_cells import interval as _interval
from bench.table_cells import machine as _machine
from bench.table_cells import markdown as _markdown
from bench.table_cells import number as _number
from bench.table_cells import provenance as _provenance
from bench.table_cells import trained as _trained
from jaxrec.config import RunError

PAGES = [
    Path("README.md"),
    *(
        Path("docs") / f"{name}.md"
        for name in ("results", "search", "alignment", "speed", "tpu", "privacy", "dialogue")
    ),
]
BLOCK = re.compile(r"(<!-- table:(?P<name>[\w./-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def render(text: str, results: Path) -> str:
    """`text` with every marked table replaced by what the files in `results` say.

    Raises:
      ValueError: an opening marker without its end, or a name this module has no table for.
    """
    blocks = list(BLOCK.finditer(text))
    if len(blocks) != text.count("<!-- table:"):
        raise ValueError("a `<!-- table:NAME -->` has no `<!-- /table -->` after it")
    return BLOCK.sub(lambda m: f"{m[1]}{table(m['name'], results)}\n{m[3]}", text)


def table(name: str, results: Path) -> str:
    """The Markdown of one marker's name."""
    room = name.split("/")[0]
    if room == "brief":
        return brief(name.removeprefix("brief/"), results)
    if room not in TABLES:
        raise ValueError(f"no table is known by the name {name!r}: only {', '.join(TABLES)}")
    paths = sorted((results / name).glob("*.json")) if room == name else [results / f"{name}.json"]
    records = [(p.stem, read_record(p)) for p in paths if p.exists()]
    if not records:
        return "*No results of record yet.*"
    return TABLES[room](records)


def voices(records: Sequence[tuple[str, Record]]) -> str:
    """The unseen businesses' table, and what a token costs through the head and through the backbone."""
    parts = []
    for _, record in records:
        head = [
            "row",
            "businesses",
            "nats a token",
            "style checks met",
            "facts right",
            "word F1",
            "answers",
        ]
        lines = [
            [row["row"], row["tenants"]]
            + [_number(row[name]) for name in ("nll", "style", "facts", "f1")]
            + [str(row["n"])]
            for row in record["rows"]
        ]
        cost = "; ".join(
            f"{row['decoder']} {row['mflop_token']:.2f} MFLOP, {row['ms_token']:.2f} ms"
            for row in record["cost"]
        )
        if len(records) > 1:
            # The first record's model was trained by the demo itself, and is called by no name.
            named = record.get("backbone", "the small model that `make demo` trains from nothing")
            parts.append(f"On {named}:")
        parts += [_markdown(head, lines), f"A token, decoded alone: {cost}.", _provenance(record)]
    return "\n\n".join(parts)


def recommend(records: Sequence[tuple[str, Record]]) -> str:
    """One table for each data set and way of asking: a row a model, mean and deviation over seeds."""
    groups: dict[tuple[str, str], list[tuple[str, Record, Record]]] = {}
    for name, record in records:
        for row in record["rows"]:
            groups.setdefault(_asked(row), []).append((name, record, row))
    parts = []
    for (dataset, asked), found in sorted(groups.items()):
        rows = [row for _, _, row in found]
        measures = [key for key in dict.fromkeys(k for row in rows for k in row) if _measure(key)]
        plain = ["coverage", "diversity", "novelty", "epoch", "wall_s", "peak_mb"]
        head = ["model", "seeds", *measures, *(c for c in plain if _any(rows, c))]
        head += [column for column in ("bar", "peer") if _any(rows, column)]
        lines = [[_recommend_cell(row, column) for column in head] for row in rows]
        parts += [f"**{dataset}**: {asked}", _markdown(head, lines)]
        of_files = {name: record for name, record, _ in found}
        for record in of_files.values():
            parts += _paired(record, dataset)
            said = [f"{key}: {record[key]}" for key in ("bar", "peer") if record.get(key)]
            parts += [f"{'; '.join(said)}."] if said else []
        parts.append(_provenances(of_files))
    return "\n\n".join(parts)


def _asked(row: Record) -> tuple[str, str]:
    """(data set, how it was asked): rows of one table agree in both."""
    said = [row["protocol"] + (" ranking" if row["protocol"] == "full" else "")]
    said += [f"split by {row['split']}"] if row.get("split") else []
    said += [f"history {row['history']}"] if row.get("history") else []
    said += [f"ties {row['ties']}"] if row.get("ties") else []
    said += [f"diversity by {row['diversity_by']}"] if row.get("diversity_by") else []
    return row["dataset"], ", ".join(said)


def _measure(key: str) -> bool:
    if key.endswith(
        ("_unmasked", "_new", "_repeat")
    ):  # of ranks among the history too, of a part: at 10 alone
        return key.split("_", 1)[0] in ("R@10", "N@10")
    return ("@" in key and not key.endswith(("_sd", "_lo", "_hi"))) or key in ("RMSE", "MAE", "MRR")


def _any(rows: Sequence[Record], column: str) -> bool:
    return any(row.get(column) not in (None, "") for row in rows)


def _recommend_cell(row: Record, column: str) -> str:
    value = row.get(column)
    if value in (None, ""):
        return "-"
    if _measure(column):
        if row.get(f"{column}_lo") is not None:
            return _interval(row, column)
        spread = row.get(f"{column}_sd")
        return _number(value) + ("" if spread is None else f" ± {spread:.4f}")
    if isinstance(value, float):
        return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    return str(value)


def _paired(record: Record, dataset: str) -> list[str]:
    """The gaps that were measured on this data set; a record's pairs may be of several."""
    gaps = [
        f"{p['a']} - {p['b']}, {p['metric']}: {p['diff']:+.4f} [{p['lo']:+.4f}, {p['hi']:+.4f}]"
        for p in record["paired"]
        if p.get("dataset", dataset) == dataset
    ]
    return ["Paired: " + "; ".join(gaps) + "."] if gaps else []


def _provenances(records: dict[str, Record]) -> str:
    """One line for several files: machines and versions once, then each file with its commit and minutes."""
    machines = dict.fromkeys(_machine(record) for record in records.values())
    files = [
        f"{name}: {_trained(record)}, {record['wall_s'] / 60:.1f} min"
        for name, record in records.items()
    ]
    return f"<sub>{' | '.join(machines)}. Files: {'; '.join(files)}.</sub>"


def search(records: Sequence[tuple[str, Record]]) -> str:
    """A table for each file: recall and latency, then what a larger catalogue would take; geometries side by side."""
    parts = []
    for name, record in records:
        if record["name"] == "geometry":
            columns = ["vectors", "n", "two_nn", "mle_10", "mle_100"]
            columns += [f"{what}_{k}" for what in ("contrast", "near") for k in (1, 10, 100)]
            rows = record["rows"]
        else:
            columns = ["n_vectors", "index", "p50_ms", "p95_ms", "recall@10", "rss_mb", "build_s"]
            rows = record["rows"]
        bold = record.get("headline")
        lines = [[_search_cell(row.get(c), bold) for c in columns] for row in rows]
        parts += [f"**{name}**", _markdown(columns, lines)]
        if (best := record.get("best")) is not None:
            whole = [
                f"{key.removesuffix('_total_p50_ms')} query encoder: {value:.1f} ms end to end "
                f"(encoding {best[key.replace('total', 'encode')]:.1f})"
                for key, value in best.items()
                if key.endswith("_total_p50_ms")
            ]
            if whole and best.get("query_encoder"):
                whole.append(f"queries by {best['query_encoder']}")
            said = [f"best: {best['p50_ms']:.1f} ms at recall {best['recall@10']:.4f}", *whole]
            parts.append("; ".join(said) + ".")
        if planned := record.get("plan"):
            columns = list(planned[0])
            lines = [[_search_cell(row[c], None) for c in columns] for row in planned]
            parts += ["On paper, by the slopes between the two sizes:", _markdown(columns, lines)]
        parts.append(_provenance(record))
    return "\n\n".join(parts)


def _search_cell(value: Any, bold: str | None) -> str:
    if value is None or isinstance(value, str):
        return "-" if value is None else f"**{value}**" if value == bold else value
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:.4g}"
        if value < 1000
        else f"{value:,.0f}"
    )


EXPLAIN = {  # column of a row -> how the README calls it
    "perplexity": "perplexity", "rouge_l": "ROUGE-L", "similarity": "BERTScore-like", "named": "right item",
    "another": "another item", "persona": "persona words", "true": "true attributes", "false": "false attributes",
    "reward": "reward", "reward/length": "length", "reward/personal": "personal", "reward/sentiment": "sentiment",
    "reward/generic": "generic", "gaming/repetition": "repetition", "gaming/copying": "copying",
    "gaming/stuffing": "stuffing", "distinct_2": "distinct-2", "words": "words",
}  # fmt: skip


def explain(records: Sequence[tuple[str, Record]]) -> str:
    """A table for each set of held-out prompts, then the milliseconds of the flow's stages."""
    parts = []
    for name, record in records:
        for held in dict.fromkeys(row["set"] for row in record["rows"]):
            rows = [row for row in record["rows"] if row["set"] == held]
            columns = [key for key in EXPLAIN if _any(rows, key)]
            lines = [
                [row["model"], *("-" if row[c] is None else f"{row[c]:.3g}" for c in columns)]
                for row in rows
            ]
            head = ["texts by", *(EXPLAIN[column] for column in columns)]
            parts += [
                f"**{name}**, {held}: {rows[0]['n']} held-out prompts",
                _markdown(head, lines),
            ]
        spent = "; ".join(
            f"{row['stage']} {row['p50_ms']:.1f} ({row['p95_ms']:.1f})" for row in record["latency"]
        )
        parts += [f"Milliseconds by stage, p50 (p95), ten explanations each: {spent}."]
        parts.append(_provenance(record))
    return "\n\n".join(parts)


def prefer(records: Sequence[tuple[str, Record]]) -> str:
    """A table for each set of pairs: a row a loss; what its own reward says, and which answer is the likelier one.

    Of a language model also how many more pairs that is than the untuned likelihood has right, on the same pairs.
    """
    measures = ("accuracy", "likelier", "likelier_per_token", "gain")
    names = ("by its reward", "likelier", "likelier per token", "reward less untuned")
    parts = []
    for name, record in records:
        told = [n for n, key in enumerate(measures) if n < 3 or _any(record["rows"], key)]
        lines = [
            [row["row"]]
            + [_interval({measures[n]: None} | row, measures[n]) for n in told]
            + [_number(row.get("margin")), str(row["n"])]
            for row in record["rows"]
        ]
        said = (
            f"**{name}**: held-out pairs in which the chosen answer is ahead ({record['protocol']})"
        )
        head = ["row", *(names[n] for n in told), "margin", "pairs"]
        parts += [said, _markdown(head, lines), _provenance(record)]
    return "\n\n".join(parts)


QUANT = {  # part of the evaluation -> {column: how the README calls it}
    "sizes": {
        "row": "weights", "bytes/parameter": "bytes a parameter", "on disk": "on disk", "of_fp32": "of fp32",
        "weights_mb": "weights, MB", "step_mb": "a step beside them, MB", "step_ms": "step, ms",
        "time_of_fp32": "of fp32's time",
    },
    "losses": {"row": "weights", "before": "before", "nll": "nats a token", "sd": "deviation", "seeds": "seeds"},
    "load": {
        "size": "model", "kind": "weights", "file_gb": "files, GB", "weights_gb": "weights, GB",
        "bytes/parameter": "bytes a parameter", "peak_gb": "peak of loading, GB", "seconds": "s",
    },
}  # fmt: skip


def quant(records: Sequence[tuple[str, Record]]) -> str:
    """What weights take in memory and on disk, the losses with their gaps to fp32 and bf16, the peak of loading."""
    parts = []
    for _, record in sorted(records, key=lambda r: list(QUANT).index(r[1]["part"])):
        columns = QUANT[record["part"]]
        cell = lambda x: x if isinstance(x, str) else "-" if x is None else f"{x:.4g}"
        lines = [[cell(row.get(column)) for column in columns] for row in record["rows"]]
        parts.append(_markdown(list(columns.values()), lines))
        gaps = [
            f"{p['a']} - {p['b']}: {p['diff']:+.4f} [{p['lo']:+.4f}, {p['hi']:+.4f}]"
            for p in record["paired"]
        ]
        parts += (
            ["Nats a token, mean [least, most] over seeds: " + "; ".join(gaps) + "."]
            if gaps
            else []
        )
        parts.append(_provenance(record))
    return "\n\n".join(parts)


def policy(records: Sequence[tuple[str, Record]]) -> str:
    """One table a set: a line a label and row, the gaps of the headline, and what is done with which answers."""
    parts = []
    for name, record in records:
        head = ["label", "row", "base rate", "AUPRC", "F1", "false-positive rate", "recall", "ECE"]
        lines = [
            [
                row["label"],
                _bold(row["row"], record),
                _number(row["base"]),
                *(_interval(row, key) for key in ("auprc", "f1")),
                *(_number(row[key]) for key in ("fpr", "recall", "ece")),
            ]
            for row in record["rows"]
        ]
        said = f"**{name}**: {record['tested']:,} answers, 95% intervals over {record['groups']} groups"
        parts += [said, _markdown(head, lines), _gaps(record["paired"], ("auprc",), "label")]
        acts = record["decisions"]
        lines = [
            [row["wrong"], str(row["answers"]), *map(_number, list(row.values())[2:])]
            for row in acts
        ]
        parts += [_markdown(list(acts[0]), lines), _provenance(record)]
    return "\n\n".join(parts)


def editor(records: Sequence[tuple[str, Record]]) -> str:
    """One table a set at the fewest and the most pieces, and the gaps of the headline at the most."""
    parts = []
    for name, record in records:
        ks = sorted({row["k"] for row in record["rows"]})
        measures = ("mrr", "top1", "pairs", "against_other", "against_original", "keep")
        lines = [
            [_bold(row["row"], record), str(row["k"]), *(_number(row[m]) for m in measures)]
            for row in record["rows"]
            if row["k"] in (ks[0], ks[-1])
        ]
        said = f"**{name}**: {record['tested']:,} choices of {record['people']} unseen people"
        parts += [said, _markdown(["row", "k", *measures], lines)]
        last = [p for p in record["paired"] if p["k"] == ks[-1]]
        parts += [_gaps(last, ("top1", "against_other", "keep")), _provenance(record)]
    return "\n\n".join(parts)


def rewrite(records: Sequence[tuple[str, Record]]) -> str:
    """Voice and facts of rewritten drafts, with intervals over tenants."""
    parts = []
    for name, record in records:
        measures = ("style", "facts", "both")
        lines = [
            [_bold(row["row"], record), *(_interval(row, m) for m in measures)]
            for row in record["rows"]
        ]
        said = f"**{name}**: {record['tested']:,} drafts for {record['people']} unseen tenants"
        parts += [said, _markdown(["row", *measures], lines), _gaps(record["paired"], measures)]
        parts.append(_provenance(record))
    return "\n\n".join(parts)


def _bold(row: str, record: Record) -> str:
    return f"**{row}**" if row == record["headline"] else row


def _gaps(paired: Sequence[Record], metrics: Sequence[str], of: str | None = None) -> str:
    said = [
        f"{p['a']} - {p['b']}, {p['metric']}{f' of {p[of]}' if of else ''}: "
        f"{p['diff']:+.4f} [{p['lo']:+.4f}, {p['hi']:+.4f}]"
        for p in paired
        if p["metric"] in metrics and p["diff"] is not None
    ]
    return f"Paired: {'; '.join(said)}."


TABLES = {
    "policy": policy,
    "editor": editor,
    "rewrite": rewrite,
    "quant": quant,
    "peft": peft,
    "prefer": prefer,
    "personalize": personalize,
    "voices": voices,
    "bench": bench,
    "recommend": recommend,
    "search": search,
    "encoders": encoders,
    "explain": explain,
    "dialogue": dialogue,
    "growth": growth,
    "fit": fit,
    "privacy": privacy,
}


def main() -> int:
    """Reads the flags; writes or checks the pages."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pages", type=Path, nargs="*", default=PAGES)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 when stale")
    flags = parser.parse_args()
    stale = 0
    for page in flags.pages:
        old = page.read_text(encoding="utf-8")
        try:
            new = render(old, flags.results)
        except RunError as error:
            print(f"{page}: {error}", file=sys.stderr)
            return error.status
        if old == new:
            continue
        if flags.check:
            print(f"{page} does not show what {flags.results}/ says: run `make tables`")
            stale = 1
        else:
            page.write_text(new, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main())

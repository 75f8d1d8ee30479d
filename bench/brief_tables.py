"""Five rows each of what docs/results.md shows in full, for README.md."""

from collections.abc import Callable
from pathlib import Path

from bench.table_cells import Record, interval, markdown, number, read_record

# How README calls a row -> its name in results/voices and in results/personalize
PERSON = {
    "its own p, fitted to 30 examples": ("own_p_gradient", "own_p_gradient"),
    "its own p, inferred in one pass": ("own_p_encoder", "own_p_encoder"),
    "somebody else's p": ("shuffled_p", "shuffled_p"),
    "no p": ("no_p", "pooled"),
    "no p, but a bias a label": (None, "own_bias"),
}
BEAUTY = ("popularity", "bpr", "item_knn", "sasrec_bce", "sasrec_ce")
RACES = {  # race -> (what it measures, our contender, the peer)
    "sft": ("LoRA steps of a 30M Llama", "jaxrec", "torch + peft"),
    "generate-1": ("decoding, one row", "jaxrec", "transformers"),
    "generate-16": ("decoding, 16 rows", "jaxrec", "llama.cpp"),
    "sasrec": ("an epoch of SASRec over Beauty", "jaxrec", "torch, by length"),
    "search-1": ("exact search, a query at a time", "jaxrec", "faiss, BLAS"),
}


def brief(name: str, results: Path) -> str:
    """The Markdown of one of the short tables. Raises ValueError for an unknown name."""
    if name not in BRIEF:
        raise ValueError(f"no short table is known by the name {name!r}: only {', '.join(BRIEF)}")
    return BRIEF[name](lambda file: read_record(results / f"{file}.json"))


def person(read: Callable[[str], Record]) -> str:
    """What p is worth: voices of unseen businesses, and unseen people's own judgements at k = 30."""
    voices = {
        row["row"]: row for row in read("voices/sample")["rows"] if row["tenants"] == "generated"
    }
    people = [
        {row["row"]: row for row in read(f"personalize/{name}")["rows"] if row["k"] == 30}
        for name in ("multipico", "popquorn")
    ]
    head = ["", "style kept", "word F1", "MultiPICo", "POPQUORN"]
    lines = [
        [
            said,
            *(number(voices[own][measure] if own else None) for measure in ("style", "f1")),
            *(interval(judged.get(other), "accuracy") for judged in people),
        ]
        for said, (own, other) in PERSON.items()
    ]
    return markdown(head, lines)


def beauty(read: Callable[[str], Record]) -> str:
    """Amazon Beauty: the floors, and SASRec by the published loss and by full cross-entropy."""
    rows = [read(f"recommend/beauty_{name}")["rows"][0] for name in BEAUTY]
    head = ["Amazon Beauty 2014", "seeds", "Recall@10", "NDCG@10", "coverage"]
    lines = [
        [
            row["model"],
            str(row["seeds"]),
            number(row["R@10"]),
            number(row["N@10"]),
            f"{row['coverage']:.2f}",
        ]
        for row in rows
    ]
    return markdown(head, lines)


def speed(read: Callable[[str], Record]) -> str:
    """Throughput over a peer's on the same machine."""
    lines = []
    for race, (said, ours, peer) in RACES.items():
        rows = read(f"bench/{race}")["rows"]
        row = next(r for r in rows if (r["contender"], r["base"]) == (ours, peer))
        spread = f"**{row['ratio']:.2f}** ({row['lo']:.2f} - {row['hi']:.2f})"
        lines.append([said, peer, spread])
    return markdown(["two CPU cores", "against", "times as fast"], lines)


BRIEF = {"person": person, "beauty": beauty, "speed": speed}

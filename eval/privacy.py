"""How much of what is private the filter finds, and what it takes for private that isn't.

    JAXREC_DATA=... python -m eval.privacy --out results/privacy
    python -m eval.privacy --group tuning --out runs/privacy      what the finders were made better by

Texts are templates filled with made-up people and numbers with right check digits (eval/privacy_texts.py); the measured
templates and names are not those of "tuning". Recall: of planted pieces, those masked to the last character. Precision
and F1 of names: found as names with exactly the planted ends; loosely, with a character in common. False alarms:
pieces found in texts of others where next to nothing is private (Bitext's questions, tau2's policies), for each 1,000
words; whatever is found there counts. Then unmask(mask(x)) == x on texts made to break it. Needs `jaxrec[privacy]`,
`python -m jaxrec.hub.fetch names-en` and `names-ru`.
"""

import csv
import dataclasses
import gzip
import json
import os
import random
import resource
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxrec import config
from jaxrec.config import RunError
from jaxrec.eval.privacy_texts import Planted, planted
from jaxrec.privacy.filter import PrivacyFilter
from jaxrec.privacy.masking import Conversation
from jaxrec.privacy.spans import KINDS, NUMBERS, Span
from jaxrec.results import print_table, write_results


@dataclasses.dataclass(frozen=True)
class PrivacyEvalConfig:
    """How many texts of each kind."""

    texts: int = 330  # of each language
    group: str = "test"  # of templates: test or tuning
    bitext: int = 1500  # questions, drawn over all; 0: none
    documents: int = 60  # of tau2's, beside its policies
    round_trips: int = 100_000  # texts of random pieces and overlapping random spans
    real_round_trips: int = 300  # with the filter's own finders
    seed: int = 0
    out: str = "results/privacy"


def main(cfg: PrivacyEvalConfig) -> Path:
    """Measures, prints, writes the record; gives its path."""
    begun, cpu = time.monotonic(), _cpu()
    private = PrivacyFilter().load()
    loading = _cpu() - cpu
    rows = []
    for language in ("en", "ru"):
        texts = planted(language, cfg.group, cfg.texts, cfg.seed)
        found = [private.find(text.text) for text in texts]
        rows += found_rows(language, texts, found)
    alarms = [alarm_row(name, texts, private) for name, texts in others(cfg)]
    trips = [
        {"finders": "random overlapping spans", **random_round_trips(cfg.round_trips, cfg.seed)},
        {
            "finders": "the filter's own",
            **real_round_trips(private, cfg.real_round_trips, cfg.seed),
        },
    ]
    for table in (rows, alarms, trips):
        print_table(table)
        print()
    path = write_results(
        cfg.out, "privacy", rows, config=cfg, seed=cfg.seed, wall_s=time.monotonic() - begun,
        filename="filter.json", command="python -m eval.privacy", alarms=alarms, round_trips=trips,
        loading_cpu_s=round(loading, 1), cpu_s=round(_cpu() - cpu, 1), peers=_versions(),
    )  # fmt: skip
    print(f"wrote {path}")
    return path


def found_rows(
    language: str, texts: Sequence[Planted], found: Sequence[Sequence[Span]]
) -> list[dict]:
    """A row for each kind, one for all numbers, and false alarms of the same texts."""
    count: Counter = Counter()
    for text, spans in zip(texts, found, strict=True):
        masked = {i for span in spans for i in range(span.start, span.end)}
        for span in text.spans:
            count["planted", span.kind] += 1
            count["covered", span.kind] += masked.issuperset(range(span.start, span.end))
        for span in spans:
            count["found", span.kind] += 1
            own = [s for s in text.spans if s.start < span.end and span.start < s.end]
            count["right", span.kind] += any(
                (s.start, s.end, s.kind) == (span.start, span.end, span.kind) for s in own
            )
            count["near", span.kind] += any(s.kind == span.kind for s in own)
            count["alarm", span.kind] += not own
    words = sum(len(text.text.split()) for text in texts)
    rows = []
    for kind, members in {
        **{k: (k,) for k in KINDS if k != "TEXT"},
        "all numbers": NUMBERS,
    }.items():
        of = lambda what, members=members: sum(count[what, k] for k in members)
        if not of("planted"):
            continue
        row = {
            "language": language,
            "kind": kind,
            "planted": of("planted"),
            "recall": of("covered") / of("planted"),
        }
        if kind == "NAME":
            row |= {
                "precision": of("right") / max(1, of("found")),
                "f1": 2 * of("right") / (of("planted") + of("found")),
                "f1_loose": 2 * min(of("planted"), of("near")) / (of("planted") + of("found")),
            }
        rows.append({**row, "alarms_per_1000": 1000 * of("alarm") / words})
    return rows


def alarm_row(name: str, texts: Sequence[str], private: PrivacyFilter) -> dict:
    """What is found in others' texts for each 1,000 words, by kind, with the commonest pieces."""
    words = sum(len(text.split()) for text in texts)
    kinds, pieces = Counter(), Counter()
    for text in texts:
        for span in private.find(text):
            kinds[span.kind] += 1
            pieces[f"{span.kind} {text[span.start : span.end]}"] += 1
    print(f"{name}: {', '.join(f'{p} x{n}' for p, n in pieces.most_common(15))}", flush=True)
    each = {kind.lower(): 1000 * n / words for kind, n in kinds.most_common()}
    return {"texts": name, "words": words, "all": 1000 * sum(kinds.values()) / words, **each}


def others(cfg: PrivacyEvalConfig) -> Iterator[tuple[str, list[str]]]:
    """(name, texts) of Bitext and tau2, where JAXREC_DATA has them."""
    if not (cfg.bitext or cfg.documents):
        return
    root = Path(os.environ.get("JAXREC_DATA") or "")
    questions = root / "bitext" / "bitext_27k_instruction_category.csv.gz"
    tau2 = root / "tau2"
    if not os.environ.get("JAXREC_DATA") or not questions.is_file() or not tau2.is_dir():
        raise RunError(
            "false alarms are counted on bitext and tau2: set JAXREC_DATA, or --bitext 0 --documents 0"
        )
    with gzip.open(questions, "rt", encoding="utf-8") as file:
        rows = [row["instruction"] for row in csv.DictReader(file)]
    yield "Bitext, questions", random.Random(cfg.seed).sample(rows, cfg.bitext)
    yield "tau2, policies", [path.read_text() for path in sorted(tau2.glob("*_*.md"))]
    with gzip.open(tau2 / "banking_knowledge__documents.jsonl.gz", "rt", encoding="utf-8") as file:
        documents = [json.loads(line)["content"] for line in file]
    yield "tau2, banking documents", random.Random(cfg.seed).sample(documents, cfg.documents)


PIECES = (
    "[NAME_1_0a1b2c3d]", "[NAME_1_", "0a1b2c3d]", "[", "]", "]]", "[[", "[EMAIL_2_ffffffff]", "_1_", "NAME", " ", "\n",
    "a", "Мария", "+7 912 345-67-89", "x@y.ru", "\u202e", "\x00", "\ud800", "é", "e\u0301", "１２３", "🙂",
    "4111 1111 1111 1111",
)  # fmt: skip


def awkward(draw: random.Random) -> str:
    """A text of pieces of placeholders, brackets, marks and things that are private."""
    return "".join(draw.choice(PIECES) for _ in range(draw.randint(0, 14)))


def random_spans(draw: random.Random, text: str) -> list[Span]:
    """Spans anywhere, overlapping, of any kind."""
    ends = [
        sorted((draw.randint(0, len(text)), draw.randint(0, len(text))))
        for _ in range(draw.randint(0, 5))
    ]
    return [Span(lo, hi, draw.choice(KINDS)) for lo, hi in ends if lo < hi]


def random_round_trips(count: int, seed: int) -> dict:
    """Masks and unmasks in conversations of eight texts; each text back for its owner, and for nobody else."""
    draw, wrong, told, made = random.Random(seed), 0, 0, 0
    for i in range(count):
        if i % 8 == 0:
            talk = Conversation(
                lambda text: random_spans(draw, text), tenant="t", owner="a", key=b"k", name=str(i)
            )
        text = awkward(draw)
        masked = talk.mask(text)
        wrong += talk.unmask(masked, "a") != text
        told += talk.unmask(masked, "b") != masked
        made += masked != text
    return {"texts": count, "masked": made, "not restored": wrong, "told to others": told}


def real_round_trips(private: PrivacyFilter, count: int, seed: int) -> dict:
    """The same with the filter's finders, on awkward texts between planted ones."""
    draw, wrong, told, made = random.Random(seed), 0, 0, 0
    own = [p.text for language in ("en", "ru") for p in planted(language, "test", 200, seed)]
    for i in range(count):
        if i % 8 == 0:
            talk = private.conversation("t", "a", str(i))
        text = awkward(draw) + draw.choice(own) + awkward(draw)
        masked = talk.mask(text)
        wrong += talk.unmask(masked, "a") != text
        told += talk.unmask(masked, "b") != masked
        made += masked != text
    return {"texts": count, "masked": made, "not restored": wrong, "told to others": told}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _versions() -> dict[str, str]:
    import importlib.metadata

    names = ("presidio-analyzer", "spacy", "slovnet", "python-stdnum", "phonenumbers")
    return {name: importlib.metadata.version(name) for name in names}


if __name__ == "__main__":
    config.run(main, PrivacyEvalConfig, __doc__)

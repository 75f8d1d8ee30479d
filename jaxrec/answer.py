"""Questions in, answers in a tenant's voice out, by a personal model and whoever was onboarded to it.

    python -m jaxrec.answer --model runs/personalize --tenant corner_bakery --questions questions.txt
    echo "Do you open on Sunday?" | python -m jaxrec.answer --model runs/personalize --tenant corner_bakery
    python -m jaxrec.answer --model runs/universal/model --profile runs/personalize --tenant corner_bakery --json

MODEL is the OUT of a universal stage, or of a personalize stage, which names its model itself. A line of the questions
is a question, or JSON: {"question": "..."} or {"messages": [{"role", "content"}, ...]}, whose own "tenant" goes before
--tenant. Answers come one a line, in the order of the questions; with --json as objects. At a terminal without
--questions one asks, line by line, and reads the answer as it is written.

A model that was trained with pages before its questions is given the tenant's name and the page that shares most words
with the question; the objects of --json say which, by its id, in "pages".

Many questions of many tenants go into a file, whole or not there: a run that was killed goes on where it was.

    python -m jaxrec.answer --model runs/personalize --questions all.jsonl --out answers.jsonl --cluster auto

With --private the model never sees names, numbers and addresses of a question, but placeholders, which are turned back
in its answer: pip install 'jaxrec[privacy]', python -m jaxrec.hub.fetch names-en, and names-ru.

CLUSTER is a Ray cluster (auto, HOST:PORT, ray://HOST:PORT) or workers of this machine (local:2), each of which loads
the model; the answers are the same. All machines see MODEL and PROFILE under the same paths.
"""

import dataclasses
import functools
import itertools
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from jaxrec import config, files
from jaxrec.cluster import map_shards
from jaxrec.config import RunError


@dataclasses.dataclass(frozen=True)
class AnswerConfig:
    """Who answers which questions, and how."""

    model: str = ""  # OUT of a universal or a personalize stage, or OUT/model, or OUT/profile
    tenant: str = ""  # its key; may be left out where one tenant alone was onboarded
    profile: str = ""  # onboarded tenants beside those of the model: OUT of a personalize stage
    questions: str = "-"  # a file of questions; "-" reads standard input
    json: bool = False  # a line of JSON for each answer
    limit: int = 128  # tokens of an answer at most
    temperature: float = 0.0  # 0: the likeliest words
    repetition: float = 1.0  # penalty on what an answer has said already; 1: none
    seed: int = 0
    rows: int = 8  # questions that are answered at a time
    quantise: str = ""  # the backbone's kernels: nf4, int8 or bf16
    private: bool = (
        False  # the model reads placeholders for names, numbers and addresses of a question
    )
    out: str = ""  # a file for the answers, as --json; unfinished ones wait in OUT.parts
    cluster: str = (
        ""  # the workers that answer: auto, HOST:PORT, ray://HOST:PORT, local:N; "": this process
    )
    threads: int = (
        0  # cores of a worker of the cluster; 0: one, or an N-th of this machine for local:N
    )


@dataclasses.dataclass(frozen=True)
class Request:
    """A question (or a conversation that ends with one), who is to answer, and what its row said beside it."""

    question: Any
    tenant: str  # "": the command's own
    row: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Questions that are answered together, `first` of which were asked before, and lines that are none."""

    asked: tuple[Request, ...]
    left_out: tuple[str, ...]
    first: int


def main(cfg: AnswerConfig) -> int:
    """Answers, and gives how many questions there were. Raises RunError where there is none, or nobody to answer."""
    if not cfg.model:
        raise RunError(
            "name a model with --model: the OUT of a universal stage, or of a personalize stage"
        )
    lines = _lines(cfg.questions)
    if cfg.questions == "-" and sys.stdin.isatty() and not cfg.out and not cfg.cluster:
        return _talk(*_load(cfg), lines, cfg)
    how: dict[str, Any] = {}
    if cfg.out:
        lines = list(lines)
        settings = dataclasses.replace(cfg, questions="", out="", cluster="", threads=0)
        mark = files.content_hash(repr(settings), "\0".join(lines), digits=32)
        how = {"keep": f"{cfg.out}.parts", "mark": mark}
    made = map_shards(
        functools.partial(_answered, cfg),
        _batches(_asked(lines), cfg.rows),
        address=cfg.cluster,
        setup=functools.partial(_load, cfg),
        name=lambda _, batch: f"questions {batch.first + 1}-{batch.first + len(batch.asked)}",
        threads=cfg.threads,
        accelerator=True,
        progress="answers" if cfg.out else "",
        **how,
    )
    return _to_file(cfg, made) if cfg.out else _to_stdout(cfg, made)


def _load(cfg: AnswerConfig) -> tuple[Any, str]:
    """The assistant, and who answers where a question names nobody; an unknown one is said before anything is read."""
    from jaxrec.assistant import Assistant

    assistant = Assistant.load(
        cfg.model,
        profile=cfg.profile,
        quantise=cfg.quantise,
        rows=cfg.rows,
        limit=cfg.limit,
        repetition=cfg.repetition,
    )
    if cfg.private:
        from jaxrec.assistant.masked import MaskedAssistant
        from jaxrec.privacy.filter import PrivacyFilter

        assistant = MaskedAssistant(assistant, PrivacyFilter())
    tenant = cfg.tenant or _only_one(assistant)
    assistant.voice(tenant)
    return assistant, tenant


def _answered(cfg: AnswerConfig, loaded: tuple[Any, str], batch: Batch) -> dict[str, Any]:
    """Rows of answers, and the lines that were left out."""
    assistant, tenant = loaded
    whose = [one.tenant or tenant for one in batch.asked]
    grounded = [
        assistant.ground(one.question, who) for one, who in zip(batch.asked, whose, strict=True)
    ]
    texts = assistant.answers(
        [one.turns for one in grounded],
        whose,
        temperature=cfg.temperature,
        seed=cfg.seed + batch.first,
    )
    rows = []
    for one, who, read, text in zip(batch.asked, whose, grounded, texts, strict=True):
        beside = one.row or {"question": one.question}
        said = {"tenant": who, "answer": text}
        if read.pages:
            said["pages"] = list(read.pages)  # ids of what it was to answer from
        rows.append({"tenant": who} | beside | said)
    return {"rows": rows, "left_out": list(batch.left_out)}


def _to_stdout(cfg: AnswerConfig, made: Iterator[dict[str, Any]]) -> int:
    return _counted(cfg, made, lambda row: print(_line(row, cfg.json), flush=True))


def _to_file(cfg: AnswerConfig, made: Iterator[dict[str, Any]]) -> int:
    with files.open_atomically(cfg.out) as file:
        count = _counted(cfg, made, lambda row: file.write(_line(row, True) + "\n"))
    shutil.rmtree(f"{cfg.out}.parts")
    print(f"wrote {cfg.out}: {count:,} answers", file=sys.stderr)
    return count


def _counted(
    cfg: AnswerConfig, made: Iterator[dict[str, Any]], write: Callable[[Mapping[str, Any]], Any]
) -> int:
    """Writes all rows; how many there were. Raises RunError where there is none."""
    count, left_out = 0, 0
    for part in made:
        for problem in part["left_out"]:
            left_out += 1
            print(f"left out: {problem}", file=sys.stderr)
        for row in part["rows"]:
            write(row)
            count += 1
    if not count:
        raise RunError(
            f"there is no question in {_named(cfg.questions)}"
            + (f"; {left_out} left out" if left_out else "")
        )
    return count


def _lines(source: str) -> Iterator[str]:
    """The lines of a file or of standard input; undecodable bytes come as marks. Raises RunError for no such file."""
    if source == "-":
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(encoding="utf-8", errors="replace")
        return iter(sys.stdin)
    path = Path(source).expanduser()
    if not path.is_file():
        raise RunError(f"there is no file of questions {source}")
    return _read(path)


def _read(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        yield from file


def _asked(lines: Iterable[str]) -> Iterator[Request | str]:
    """A question for each line that is not blank, or what is wrong with it."""
    from jaxrec.assistant.assistant import as_turns

    for number, line in enumerate(lines, 1):
        line = line.lstrip("\ufeff").strip()
        if not line:
            continue
        row = _row(line)
        if row is None:
            yield Request(line, "", {})
            continue
        question = next((row[k] for k in ("question", "messages", "prompt") if k in row), None)
        try:
            if not isinstance(question, str | list):
                raise RunError("JSON without a question (or messages)")
            as_turns(question)
        except (RunError, TypeError, ValueError) as error:
            yield f"line {number}: {error}"
            continue
        yield Request(question, str(row.get("tenant") or ""), row)


def _row(line: str) -> Mapping[str, Any] | None:
    """The object of a line of JSON; None for a line of plain text."""
    if not line.startswith("{"):
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, Mapping) else None


def _batches(asked: Iterator[Request | str], rows: int) -> Iterator[Batch]:
    """So many lines each, whether they hold a question or not: a person who waits is not kept waiting by a blank."""
    first = 0
    while lines := list(itertools.islice(asked, rows)):
        good = tuple(one for one in lines if isinstance(one, Request))
        yield Batch(good, tuple(one for one in lines if isinstance(one, str)), first)
        first += len(good)


def _line(row: Mapping[str, Any], as_json: bool) -> str:
    return json.dumps(row, ensure_ascii=False) if as_json else " ".join(row["answer"].split())


def _talk(assistant: Any, tenant: str, lines: Iterable[str], cfg: AnswerConfig) -> int:
    """A question, an answer as it is written, the next question; every question stands alone."""
    print(f"{tenant} answers. A question a line; Ctrl-D ends.", file=sys.stderr)
    count, out = 0, sys.stdout
    for line in lines:
        if question := line.strip():
            _stream(assistant, question, tenant, cfg, out)
            count += 1
    return count


def _stream(assistant: Any, question: str, tenant: str, cfg: AnswerConfig, out: TextIO) -> None:
    how = {"temperature": cfg.temperature, "seed": cfg.seed}
    for piece in assistant.stream(question, tenant, **how):
        print(piece, end="", file=out, flush=True)
    print(file=out, flush=True)


def _only_one(assistant: Any) -> str:
    from jaxrec.data.tenants import nearest

    onboarded = assistant.onboarded
    if len(onboarded) == 1:
        print(f"{onboarded[0]} answers", file=sys.stderr)
        return onboarded[0]
    raise RunError(f"say who answers with --tenant{nearest('', assistant.tenants)}")


def _named(source: str) -> str:
    return "standard input" if source == "-" else source


if __name__ == "__main__":
    from jaxrec import (
        answer,
    )  # workers find its functions by this name; `__main__` is another program there

    config.run(answer.main, answer.AnswerConfig, __doc__)

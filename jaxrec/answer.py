"""Questions in, answers in a tenant's voice out, by a personal model and whoever was onboarded to it.

    python -m jaxrec.answer --model runs/personalize --tenant corner_bakery --questions questions.txt
    echo "Do you open on Sunday?" | python -m jaxrec.answer --model runs/personalize --tenant corner_bakery
    python -m jaxrec.answer --model runs/universal/model --profile runs/personalize --tenant corner_bakery --json

MODEL is the OUT of a universal stage, or of a personalize stage, which names its model itself. A line of the questions
is a question, or JSON: {"question": "..."} or {"messages": [{"role", "content"}, ...]}, whose own "tenant" goes before
--tenant. Answers come one a line, in the order of the questions; with --json as objects. At a terminal without
--questions one asks, line by line, and reads the answer as it is written.
"""

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from jaxrec import config
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
    seed: int = 0
    rows: int = 8  # questions that are answered at a time
    quantise: str = ""  # the backbone's kernels: nf4 or int8


@dataclasses.dataclass(frozen=True)
class Request:
    """A question (or a conversation that ends with one), who is to answer, and what its row said beside it."""

    question: Any
    tenant: str
    row: Mapping[str, Any]


def main(cfg: AnswerConfig) -> int:
    """Answers, and gives how many questions there were. Raises RunError where there is none, or nobody to answer."""
    from jaxrec.assistant import Assistant

    if not cfg.model:
        raise RunError(
            "name a model with --model: the OUT of a universal stage, or of a personalize stage"
        )
    asked_by_hand = cfg.questions == "-" and sys.stdin.isatty()
    lines = _lines(cfg.questions)
    assistant = Assistant.load(
        cfg.model, profile=cfg.profile, quantise=cfg.quantise, rows=cfg.rows, limit=cfg.limit
    )
    tenant = cfg.tenant or _only_one(assistant)
    assistant.voice(tenant)  # an unknown one is said before anything is read
    if asked_by_hand:
        return _talk(assistant, tenant, lines, cfg)
    count, left_out = 0, 0
    for batch in _batches(_asked(lines, tenant), cfg.rows):
        good = [one for one in batch if isinstance(one, Request)]
        for problem in (one for one in batch if isinstance(one, str)):
            left_out += 1
            print(f"left out: {problem}", file=sys.stderr)
        texts = assistant.answers(
            [one.question for one in good],
            [one.tenant for one in good],
            temperature=cfg.temperature,
            seed=cfg.seed + count,
        )
        for one, text in zip(good, texts, strict=True):
            print(_line(one, text, cfg.json), flush=True)
        count += len(good)
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


def _asked(lines: Iterable[str], tenant: str) -> Iterator[Request | str]:
    """A question for each line that is not blank, or what is wrong with it."""
    from jaxrec.assistant.assistant import as_turns

    for number, line in enumerate(lines, 1):
        line = line.lstrip("\ufeff").strip()
        if not line:
            continue
        row = _row(line)
        if row is None:
            yield Request(line, tenant, {})
            continue
        question = next((row[k] for k in ("question", "messages", "prompt") if k in row), None)
        try:
            if not isinstance(question, str | list):
                raise RunError("JSON without a question (or messages)")
            as_turns(question)
        except (RunError, TypeError, ValueError) as error:
            yield f"line {number}: {error}"
            continue
        yield Request(question, str(row.get("tenant") or tenant), row)


def _row(line: str) -> Mapping[str, Any] | None:
    """The object of a line of JSON; None for a line of plain text."""
    if not line.startswith("{"):
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, Mapping) else None


def _batches(asked: Iterator[Any], rows: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for one in asked:
        batch.append(one)
        if len(batch) == rows:
            yield batch
            batch = []
    if batch:
        yield batch


def _line(one: Request, text: str, as_json: bool) -> str:
    if not as_json:
        return " ".join(text.split())
    told = (
        {"tenant": one.tenant, **one.row}
        if one.row
        else {"tenant": one.tenant, "question": one.question}
    )
    return json.dumps({**told, "answer": text}, ensure_ascii=False)


def _talk(assistant: Any, tenant: str, lines: Iterator[str], cfg: AnswerConfig) -> int:
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
    config.run(main, AnswerConfig, __doc__)

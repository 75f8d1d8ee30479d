"""Instructions and chats to fine-tune on: files of them in, token rows with completion-only loss out.

    read_instructions("train.jsonl")          -> instructions, and what was left out
    encode_instructions(chat, found, 512)     -> examples for `text.pack`, `text.pad`, or `instruction_batches`

Files are .jsonl[.gz], a row a line, or .json, one list of all rows. How a row may say its conversation is in
`row_layouts`: messages, ShareGPT's and SGD's turns, prompt and completion, Alpaca's, ...

A row that cannot be used is counted, named by file and line, and skipped; `strict` makes an error of it.
"""

import dataclasses
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from jaxrec.config import RunError
from jaxrec.data.chat import ChatError, ChatFormat, Message
from jaxrec.data.folder import dataset
from jaxrec.data.message import context_of
from jaxrec.data.row_layouts import messages_of
from jaxrec.data.text import Example

TooLong = Literal["left", "right", "drop"]
_HALF = re.compile(
    r"\\u[dD][89a-fA-F]"
)  # of a character outside the first 65,536: whole where two stand together


class InstructionError(RunError, ValueError):
    """A source of instructions that cannot be read, or (strict) a row of it."""


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A conversation that ends with the answer to be learned, and where it stands ("FILE:LINE")."""

    messages: tuple[Message, ...]
    where: str

    @property
    def prompt(self) -> tuple[Message, ...]:
        """All but the last answer."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        """The last answer."""
        return self.messages[-1][1]


@dataclasses.dataclass
class Skipped:
    """What was left out or cut, by reason: how often, and where first."""

    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    first: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, reason: str, where: str) -> None:
        """Counts one more."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.first.setdefault(reason, where)

    def lines(self) -> list[str]:
        """A line a reason, for the log."""
        return [f"{n} {reason} (first: {self.first[reason]})" for reason, n in self.counts.items()]


# ------------------------------------------------------------------------------------------------- reading


def read_instructions(source: str, strict: bool = False) -> tuple[list[Instruction], Skipped]:
    """All instructions of a source, in order, and what was left out.

    source: a .jsonl[.gz] or .json file, "world" (the sample world's training tenants and its general instructions;
    "world:instructions": the latter alone),
    "sgd" or "sgd:dev". strict: the first bad row stops. Raises InstructionError when nothing usable is there.
    """
    skipped = Skipped()
    found = list(parsed(source_rows(source), strict, skipped))
    if not found:
        raise InstructionError(
            f"instructions {source!r}: not one usable row; {'; '.join(skipped.lines()) or 'it is empty'}"
        )
    return found, skipped


def source_rows(source: str) -> Iterator[tuple[str, Any]]:
    """("FILE:LINE", row) of a source of `read_instructions`, one by one. Raises InstructionError."""
    name, _, part = source.partition(":")
    if name == "world" and not Path(source).exists():
        return _world(part)
    if name == "sgd" and not Path(source).exists():
        return json_lines(dataset("sgd") / f"{part or 'train'}.jsonl.gz")
    if Path(source).is_file():
        return json_lines(Path(source))
    raise InstructionError(
        f"instructions {source!r}: no file here, and none of 'world', 'sgd', 'sgd:dev'"
    )


def parsed(
    rows: Iterable[tuple[str, Any]], strict: bool, skipped: Skipped
) -> Iterator[Instruction]:
    """The instructions of (place, row) pairs; a row that is none is added to `skipped`, or (strict) an error."""
    for where, row in rows:
        try:
            yield Instruction(messages_of(row), where)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            if strict:
                raise InstructionError(f"{where}: {reason}") from error
            skipped.add(f"malformed: {reason}", where)


def hold_out(
    instructions: Sequence[Instruction], every: int
) -> tuple[list[Instruction], list[Instruction]]:
    """(training, held out): each `every`-th is held out; one whose prompt is held out is not trained on.

    Raises InstructionError where that leaves one of the two empty.
    """
    held = [one for i, one in enumerate(instructions) if i % every == every - 1]
    known = {one.prompt for one in held}
    train = [one for one in instructions if one.prompt not in known]
    if not held or not train:
        raise InstructionError(
            f"of {len(instructions)} instructions none would be {'trained on' if held else 'held out'}:"
            f" hold_out_every is {every}. Bring more, set a smaller --hold-out-every, or name others with --held"
        )
    return train, held


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """("FILE:LINE", its JSON, or the ValueError that it is) for every line of a .jsonl[.gz] that is not blank.

    Of a .json file, which holds one list, ("FILE[0]", its first row) and so on. Byte-order marks are no part of a row.
    Raises InstructionError for a file that is not there, or not to be read as a whole.
    """
    if not path.is_file():
        raise InstructionError(f"there is no file {path}")
    if path.suffix in (".parquet", ".csv", ".tsv", ".xlsx", ".arrow", ".zip"):
        raise InstructionError(
            f"{path}: {path.suffix} is not read; save it as .jsonl, a row a line"
        )
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        # bytes that are no UTF-8 come as lone surrogates, which tell their line: the others are read
        with opened(path, "rt", encoding="utf-8", errors="surrogateescape") as lines:
            if path.suffix == ".json":
                yield from _listed(path, lines.read())
                return
            for number, line in enumerate(lines, 1):
                line = line.lstrip("\ufeff")
                if number == 1 and line.startswith(("\udcff\udcfe", "\udcfe\udcff")):
                    raise InstructionError(f"{path} is UTF-16: save it as UTF-8")
                if line.strip():
                    yield f"{path.name}:{number}", _parsed(line)
    except (gzip.BadGzipFile, EOFError, zlib.error, OSError) as error:
        raise InstructionError(f"{path} cannot be read: {error}") from error


def _listed(path: Path, contents: str) -> Iterator[tuple[str, Any]]:
    rows = _parsed(contents.lstrip("\ufeff"))
    if (
        isinstance(rows, ValueError) and "\n" in contents.strip()
    ):  # lines, whatever the file is called
        for number, line in enumerate(contents.splitlines(), 1):
            if line.strip():
                yield f"{path.name}:{number}", _parsed(line.lstrip("\ufeff"))
        return
    rows = rows if isinstance(rows, list) else [rows]
    yield from ((f"{path.name}[{n}]", row) for n, row in enumerate(rows))


def _parsed(line: str) -> Any:
    """The JSON of a line, or the ValueError that says why there is none."""
    try:
        line.encode()
    except UnicodeEncodeError:
        return ValueError("no UTF-8 text")
    try:
        row = json.loads(line)
        if _HALF.search(line):
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = ord(error.object[error.start])
        return ValueError(f"half of a character (\\u{half:04x}, a lone surrogate)")
    except ValueError as error:
        return error
    except RecursionError:
        return ValueError("JSON nested too deeply")
    return row


def _world(part: str) -> Iterator[tuple[str, Any]]:
    """All of the sample world, or with "instructions" those alone that are no tenant's."""
    from jaxrec.world.businesses import read_businesses
    from jaxrec.world.instructions import instructions
    from jaxrec.world.tenants import generate

    turns = lambda of: {"turns": [{"role": t.role, "text": t.text} for t in of.turns]}
    for tenant in [] if part == "instructions" else [*generate(), *read_businesses()]:
        if not tenant.held_out:
            yield from ((f"world:{tenant.key}/{d.id}", turns(d)) for d in tenant.onboarding)
    yield from ((f"world:{trace.id}", turns(trace)) for trace in instructions())


# ------------------------------------------------------------------------------------------------ encoding


def encode_instructions(
    chat: ChatFormat,
    instructions: Sequence[Instruction],
    length: int,
    *,
    learn: str = "last",
    too_long: TooLong = "left",
) -> tuple[list[Example], Skipped]:
    """Token rows of at most `length`, of which only answers are learned, and what was cut or left out.

    too_long: an example that does not fit loses its prompt's oldest tokens (`shorten`; "left"), or simply its end
    ("right"), or is left out ("drop"), as is one that gives tools or documents, whatever is asked for. A row that has
    nothing left to learn is counted, named and skipped.
    chat: how the model writes conversations. instructions: what is encoded. length: tokens. learn: "last", or "all"
    answers of a conversation.
    Raises InstructionError when no row is left.
    """
    skipped = Skipped()
    examples = list(
        examples_of(chat, instructions, length, skipped, learn=learn, too_long=too_long)
    )
    if not examples:
        raise InstructionError(
            f"none of {len(instructions)} instructions gives a row: {'; '.join(skipped.lines())}"
        )
    return examples, skipped


def examples_of(
    chat: ChatFormat,
    instructions: Iterable[Instruction],
    length: int,
    skipped: Skipped,
    *,
    learn: str = "last",
    too_long: TooLong = "left",
) -> Iterator[Example]:
    """The rows of `encode_instructions` one by one.

    chat, instructions, length, learn, too_long: as there. skipped: gets what was cut or left out.
    """
    for one in instructions:
        gaps: list[str] = []
        try:
            example = chat.example(one.messages, learn, gaps)
        except ChatError as error:
            skipped.add(f"unwritable: {error}", one.where)
            continue
        for gap in gaps:
            skipped.add(gap, one.where)
        if len(example.ids) > length:
            if context_of(one.messages):  # half a schema teaches calls of nothing
                skipped.add(f"longer than {length} tokens with its tools, dropped", one.where)
                continue
            if too_long == "drop":
                skipped.add(f"longer than {length} tokens, dropped", one.where)
                continue
            skipped.add(f"longer than {length} tokens, cut at the {too_long}", one.where)
            example = shorten(example, length) if too_long == "left" else _cut(example, length)
        if not any(example.loss):
            skipped.add("all masked: no token of the completion is left", one.where)
            continue
        yield example


def shorten(example: Example, length: int) -> Example:
    """An example of at most `length` tokens: its prompt cut from the left, then its answer from the right.

    Of the prompt the first token (<bos>) and the last one (which opens the answer) stay. "Prompt" is all before the
    last run of learned tokens, earlier answers among it.
    """
    ids, loss = example
    learned = [i for i, weight in enumerate(loss) if weight > 0]
    start = len(ids)
    if learned:
        start = learned[-1]
        while loss[start - 1] > 0:
            start -= 1
    keep = max(start - (len(ids) - length), min(start, 2))  # tokens of the prompt that stay
    cut = start - keep
    ids, loss = [ids[0], *ids[cut + 1 :]], [loss[0], *loss[cut + 1 :]]
    return Example(ids[:length], loss[:length])


def _cut(example: Example, length: int) -> Example:
    return Example(example.ids[:length], example.loss[:length])

"""Preferences to train on: pairs of answers, or single answers with a thumb, from files; token rows out. numpy only.

    read_pairs("pairs.jsonl")          {"prompt": ..., "chosen": ..., "rejected": ...}, strings or lists of messages
                                       (or question, instruction, conversations, ... as the prompt)
    read_pairs("hh_rlhf")              Anthropic's layout: whole dialogues whose last answers differ
    read_pairs("world:train")          the sample world's tenants (train | held), each pair's group the tenant
    read_thumbs("thumbs.jsonl")        {"prompt": ..., "completion": ..., "label": true}
    read_thumbs(any source of pairs)   both answers of each pair, one up, one down

A row that cannot be used is counted, named by file and line, and skipped; `strict` makes an error of it.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.config import RunError
from jaxrec.data import text
from jaxrec.data.chat import ChatError, ChatFormat, Message
from jaxrec.data.folder import dataset
from jaxrec.data.instructions import Skipped, json_lines, messages_of
from jaxrec.data.message import context_of, spoken_of
from jaxrec.data.row_layouts import CONVERSATIONS, check_row, prompt_of
from jaxrec.data.text import Example
from jaxrec.structs import Pairs, Thumbs, Tokens

_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
# What a row gives to its model beside the prompt, or what no text model reads and messages_of refuses
_BESIDES = (
    "system",
    "system_prompt",
    "tools",
    "functions",
    "documents",
    "chat_template_kwargs",
    "images",
    "image",
)


class PairError(RunError, ValueError):
    """Preference data that cannot be read, or (strict) a row of it."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """One conversation and two answers to it. `group`: whose or what kind of preference it is; `where`: "FILE:LINE"."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    group: str = ""
    where: str = ""


@dataclasses.dataclass(frozen=True)
class Thumb:
    """One conversation, one answer, and whether it was liked."""

    prompt: tuple[Message, ...]
    answer: str
    liked: bool
    group: str = ""
    where: str = ""


# ------------------------------------------------------------------------------------------------- reading


def read_pairs(source: str, strict: bool = False) -> tuple[list[Pair], Skipped]:
    """All pairs of a source, in order, and what was left out, by reason.

    source: a .jsonl[.gz] or .json file, "hh_rlhf", "world", "world:train" or "world:held" (tenants by their part).
    Left out: rows that are malformed, an empty prompt or answer, chosen = rejected, prompts that differ. A pair's group
    is the row's "group", else the source's name. Raises PairError when nothing usable is there, and (strict) at the
    first such row.
    """
    return _read(source, strict, lambda row, where: [pair_of(row, where)])


def read_thumbs(source: str, strict: bool = False) -> tuple[list[Thumb], Skipped]:
    """Single answers with a thumb; a source of pairs gives two of each pair. As `read_pairs` otherwise."""

    def thumbs(row: Any, where: str) -> list[Thumb]:
        if isinstance(row, Mapping) and "chosen" in row:
            pair = pair_of(row, where)
            both = ((pair.chosen, True), (pair.rejected, False))
            return [Thumb(pair.prompt, said, liked, pair.group, where) for said, liked in both]
        return [thumb_of(row, where)]

    return _read(source, strict, thumbs)


def join_thumbs(thumbs: Sequence[Thumb]) -> list[Pair]:
    """The pairs that `read_thumbs` took apart, again; single answers are left out."""
    by_place: dict[tuple, dict[bool, Thumb]] = {}
    for thumb in thumbs:
        by_place.setdefault((thumb.where, thumb.prompt), {})[thumb.liked] = thumb
    return [
        Pair(
            both[True].prompt,
            both[True].answer,
            both[False].answer,
            both[True].group,
            both[True].where,
        )
        for both in by_place.values()
        if len(both) == 2
    ]


def hold_out(rows: Sequence[Any], every: int) -> tuple[list, list]:
    """(training, held out): each `every`-th prompt is held out with all its rows. Raises PairError if one is empty."""
    prompts = list(dict.fromkeys(row.prompt for row in rows))
    apart = set(prompts[every - 1 :: every])
    train = [row for row in rows if row.prompt not in apart]
    held = [row for row in rows if row.prompt in apart]
    if not train or not held:
        raise PairError(
            f"of {len(prompts)} prompts none would be left to {'train' if held else 'test'} on: hold_out_every={every}"
        )
    return train, held


def _read(source: str, strict: bool, parse: Any) -> tuple[list, Skipped]:
    found, skipped = [], Skipped()
    for where, row in source_rows(source):
        try:
            found += parse(row, where)
        except (KeyError, TypeError, ValueError) as error:
            said = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            if strict:
                raise PairError(f"{where}: {said}") from error
            skipped.add(said, where)
    if not found:
        raise PairError(
            f"preferences {source!r}: not one usable row; {'; '.join(skipped.lines()) or 'it is empty'}"
        )
    return found, skipped


def source_rows(source: str) -> Iterator[tuple[str, Any]]:
    """("FILE:LINE", row) of a source of `read_pairs`, one by one. Raises PairError where there is none."""
    name, _, part = source.partition(":")
    if Path(source).is_file():
        return json_lines(Path(source))
    if name == "hh_rlhf" and not part:
        return json_lines(dataset("hh_rlhf") / "harmless-base_test.jsonl.gz")
    if name == "world" and part in ("", "train", "held"):
        return _world(part)
    raise PairError(
        f"preferences {source!r}: no file here, and none of 'hh_rlhf', 'world', 'world:train', 'world:held'"
    )


def _world(part: str) -> Iterator[tuple[str, Any]]:
    from jaxrec.world.businesses import read_businesses
    from jaxrec.world.tenants import generate

    for tenant in [*generate(), *read_businesses()]:
        if part and tenant.held_out != (part == "held"):
            continue
        for p in tenant.preferences:
            row = {"prompt": p.question, "chosen": p.chosen, "rejected": p.rejected}
            yield p.id, row | {"group": tenant.key}


def pair_of(row: Any, where: str) -> Pair:
    """The pair of a row. Raises ValueError, KeyError, TypeError, which name what is wrong."""
    check_row(row)
    chosen, rejected = (_conversation(row, name) for name in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1]:
        raise ValueError("chosen and rejected answer different prompts")
    if chosen[-1][1].strip() == rejected[-1][1].strip():
        raise ValueError("chosen and rejected are the same")
    group = str(row.get("group") or where.partition(".")[0])
    return Pair(chosen[:-1], chosen[-1][1], rejected[-1][1], group, where)


def thumb_of(row: Any, where: str) -> Thumb:
    """The thumb of a row. Raises ValueError, KeyError, TypeError, which name what is wrong."""
    check_row(row)
    *prompt, (_, said) = _conversation(row, "completion")
    liked = row["label"]
    if not isinstance(liked, bool) and liked not in (0, 1):
        raise ValueError(f"label {liked!r} is neither true nor false")
    return Thumb(
        tuple(prompt), said, bool(liked), str(row.get("group") or where.partition(".")[0]), where
    )


def _conversation(row: Mapping[str, Any], name: str) -> tuple[Message, ...]:
    """The conversation that ends with the answer `name`: an answer after the row's prompt, or a whole one by itself.

    A whole one is a list that does not begin with the assistant, or (without a prompt) Anthropic's text
    "\n\nHuman: ...\n\nAssistant: ...".
    """
    value, prompt = row[name], _prompt(row)
    value = [value] if isinstance(value, Mapping) else value
    if not isinstance(value, str | list):
        raise TypeError(
            f"{name}: a text or a list of messages is expected, not {type(value).__name__}"
        )
    if isinstance(value, str) and prompt is None:
        _, *parts = _SPEAKER.split(value)
        says = zip(parts[::2], parts[1::2], strict=True)
        value = [{"from": _SPEAKERS[who], "value": said.strip()} for who, said in says]
    whole = not isinstance(value, str) and (prompt is None or len(value) > 1)
    besides = {key: row[key] for key in _BESIDES if key in row}
    try:
        messages = messages_of(
            besides | ({"turns": value} if whole else {"prompt": prompt, "completion": value})
        )
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if whole and len(messages) != len(value) + bool(row.get("system") or row.get("system_prompt")):
        raise ValueError(f"{name} does not end with an answer")
    if whole and isinstance(prompt, str):
        if prompt not in (said for _, said in messages[:-1]):
            raise ValueError(f"{name} answers another prompt than the row's")
    if not any(said.strip() for _, said in messages[:-1]):
        raise ValueError("the prompt is empty")
    if spoken := spoken_of(messages[-1]):
        raise ValueError(f"{name}: answers with {', '.join(spoken)} are not compared, only texts")
    return messages


def _prompt(row: Mapping[str, Any]) -> Any:
    """The row's prompt, of whatever name; None where its answers are whole conversations."""
    for key in CONVERSATIONS:
        if row.get(key) is not None and row.get("prompt") is None:
            return row[key]
    try:
        return prompt_of(row)
    except KeyError:
        return None


# --------------------------------------------------------------------------------------------------- token rows


def pair_rows(
    chat: ChatFormat, pairs: Sequence[Pair], length: int, strict: bool = False
) -> tuple[Pairs, list[Pair], Skipped]:
    """(token rows [N, length], the pairs they are, what was left out). Only the answers are learned.

    A conversation that is too long loses its oldest tokens, the same ones for both answers: counted as cut. Left out:
    an answer that does not fit by itself, answers of the same tokens, an answer of which nothing is learned.

    chat: how the model writes conversations. length: tokens of a row. strict: the first row that has to go stops.
    """
    skipped = Skipped()
    found = list(fitted_pairs(chat, pairs, length, strict, skipped))
    kept = [pair for pair, _ in found]
    _some(kept, length, skipped)
    sides = ([side[n] for _, side in found] for n in (0, 1))
    return Pairs(*(tokens(side, length, chat.pad_id) for side in sides)), kept, skipped


def fitted_pairs(
    chat: ChatFormat, pairs: Iterable[Pair], length: int, strict: bool, skipped: Skipped
) -> Iterator[tuple[Pair, list[Example]]]:
    """(pair, its chosen and its rejected conversation) of `pair_rows`, one by one.

    chat, pairs, length, strict: as there. skipped: gets what was cut or left out.
    """
    for pair in pairs:
        try:
            sides = _fitted(chat, pair.prompt, (pair.chosen, pair.rejected), length, skipped, pair)
            if sides[0].ids == sides[1].ids:
                raise ValueError("chosen and rejected are the same tokens")
        except (ValueError, ChatError) as error:
            _left_out(skipped, error, pair.where, strict)
            continue
        yield pair, sides


def thumb_rows(
    chat: ChatFormat, thumbs: Sequence[Thumb], length: int, strict: bool = False, seed: int = 0
) -> tuple[Thumbs, list[Thumb], Skipped]:
    """(token rows of `structs.Thumbs`, the thumbs they are, what was left out), as `pair_rows`.

    The mismatched answer is that of another row, dealt at random within a group (over all where a group is alone).

    chat, length, strict: as of `pair_rows`. seed: of the deal.
    """
    kept, skipped = [], Skipped()
    for thumb in thumbs:
        try:
            _fitted(chat, thumb.prompt, (thumb.answer,), length, None, thumb)
            kept.append(thumb)
        except (ValueError, ChatError) as error:
            _left_out(skipped, error, thumb.where, strict)
    _some(kept, length, skipped)
    other = mismatch([t.group for t in kept], [t.answer for t in kept], seed)
    said, wrong = [], []
    for i, thumb in enumerate(kept):
        answers = (thumb.answer, kept[other[i]].answer)
        own, foreign = _fitted(chat, thumb.prompt, answers, length, skipped, thumb)
        said.append(own)
        wrong.append(foreign)
    liked = np.array([t.liked for t in kept])
    rows = (tokens(side, length, chat.pad_id) for side in (said, wrong))
    return Thumbs(*rows, liked), kept, skipped


def mismatch(groups: Sequence[str], texts: Sequence[str], seed: int = 0) -> np.ndarray:
    """For each row the number of another one whose answer it gets: a ring through each group's rows in random order.

    The next in the ring that says something else is taken; a row whose group says nothing else gets one of another
    group. Raises PairError where all rows say the same.
    """
    if len(set(texts)) < 2:
        raise PairError("all answers are the same: KTO's baseline needs answers that differ")
    order = np.random.default_rng(seed).permutation(len(groups))
    everyone = list(order)
    rings: dict[str, list[int]] = {}
    for i in order:
        rings.setdefault(groups[i], []).append(int(i))
    other = np.full(len(groups), -1)
    for ring in (*rings.values(), everyone):
        for place, i in enumerate(ring):
            if other[i] >= 0:
                continue
            following = (ring[(place + k) % len(ring)] for k in range(1, len(ring)))
            other[i] = next((j for j in following if texts[j] != texts[i]), -1)
    return other


def tokens(examples: Sequence[Example], length: int, pad_id: int) -> Tokens:
    """One example a row; no segments, as rows are not packed."""
    rows = text.pad(examples, length, pad_id)
    return Tokens(rows["ids_BL"], rows["mask_BL"], rows["loss_BL"])


def _fitted(
    chat: ChatFormat,
    prompt: Sequence[Message],
    answers: Sequence[str],
    length: int,
    skipped: Skipped | None,
    row: Pair | Thumb,
) -> list[Example]:
    """The conversation with each answer, cut at its left by what the longest answer needs. Raises ValueError."""
    tails = []
    for said in answers:
        ids, loss = chat.example([*prompt, ("assistant", said)])
        start = next((i for i, weight in enumerate(loss) if weight), len(ids))
        if start == len(ids):
            raise ValueError("nothing of an answer is learned")
        tails.append((ids[:start], ids[start:], loss[start:]))
    head = tails[0][0]
    if any(other != head for other, _, _ in tails):  # a merge or a template looks across the border
        raise ValueError("an answer changes how its prompt is written in tokens")
    longest = max(len(tail) for _, tail, _ in tails)
    room = length - longest
    if room < 2:
        raise ValueError(f"an answer does not fit into {length} tokens with a prompt")
    if len(head) > room:
        if context_of(prompt):  # half a schema teaches calls of nothing
            raise ValueError(f"longer than {length} tokens with its tools")
        if skipped is not None:
            skipped.add(f"prompt cut to fit into {length} tokens", row.where)
        head = [head[0], *head[len(head) - room + 1 :]]
    return [Example(head + tail, [0.0] * len(head) + loss) for _, tail, loss in tails]


def _left_out(skipped: Skipped, error: Exception, where: str, strict: bool) -> None:
    if strict:
        raise PairError(f"{where}: {error}") from error
    skipped.add(str(error), where)


def _some(kept: Sequence[Any], length: int, skipped: Skipped) -> None:
    if not kept:
        raise PairError(f"no row is left at length {length}: {'; '.join(skipped.lines())}")

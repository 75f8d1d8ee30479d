"""Tenants' preferences as rows for a personal model: question and answer apart, and whose they are. numpy only."""

from collections.abc import Sequence

import numpy as np

from jaxrec.data.chat import ChatFormat, Message
from jaxrec.data.instructions import Skipped
from jaxrec.data.pairs import Pair, PairError, Thumb, mismatch, tokens
from jaxrec.data.tenant import Feedback, Preference, Tenant
from jaxrec.data.text import Example
from jaxrec.data.turns import answer_of, question_of
from jaxrec.structs import Pairs, Thumbs, Turns


def pairs_of(tenants: Sequence[Tenant]) -> list[Pair]:
    """Their preferences; a pair's group is its tenant's key."""
    return [
        Pair(_asked(p), p.chosen, p.rejected, tenant.key, p.id)
        for tenant in tenants
        for p in tenant.preferences
    ]


def thumbs_of(tenants: Sequence[Tenant]) -> list[Thumb]:
    """Their single judged answers, those of the pairs not among them; a thumb's group is its tenant's key."""
    return [
        Thumb(_asked(f), f.answer, f.liked, tenant.key, f.id)
        for tenant in tenants
        for f in tenant.thumbs
    ]


def both_thumbs(pairs: Sequence[Pair]) -> list[Thumb]:
    """Each pair as a thumb up and a thumb down."""
    return [
        Thumb(p.prompt, said, liked, p.group, p.where)
        for p in pairs
        for said, liked in ((p.chosen, True), (p.rejected, False))
    ]


def hold_out_last(pairs: Sequence[Pair], held: int) -> tuple[list[Pair], list[Pair]]:
    """(training, held out): of each group the last `held` pairs are held out.

    A held-out pair with an answer that also stands in the group's training part is left out of both. Raises PairError
    for a group with too few.
    """
    by_group: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_group.setdefault(pair.group, []).append(pair)
    train, apart = [], []
    for group, own in by_group.items():
        if len(own) <= held:
            raise PairError(
                f"{group} has {len(own)} pairs; {held} are to be held out: hold out fewer"
            )
        train += own[:-held]
        known = {said for pair in own[:-held] for said in (pair.chosen, pair.rejected)}
        apart += [pair for pair in own[-held:] if not known & {pair.chosen, pair.rejected}]
    return train, apart


def tenant_pair_rows(
    chat: ChatFormat, pairs: Sequence[Pair], tenants: Sequence[str], question: int, answer: int
) -> tuple[Pairs, list[Pair], Skipped]:
    """(`Pairs` of `Turns`, the pairs they are, what was left out). A pair's group is its place among `tenants`.

    Answers longer than `answer` tokens are cut, counted; pairs that are then the same are left out.

    chat: how the model writes. pairs: prompts with two answers. question: tokens of a question at most; a longer one
    loses its beginning.
    """
    kept, sides, skipped = [], ([], []), Skipped()
    for pair in pairs:
        both = [_answer(chat, said, answer, skipped, pair) for said in (pair.chosen, pair.rejected)]
        if both[0].ids == both[1].ids:
            skipped.add("chosen and rejected are the same tokens", pair.where)
            continue
        kept.append(pair)
        for side, example in zip(sides, both, strict=True):
            side.append(example)
    if not kept:
        raise PairError(f"no pair is left: {'; '.join(skipped.lines()) or 'there was none'}")
    make = lambda side: _turns(chat, kept, side, tenants, question, answer)
    return Pairs(make(sides[0]), make(sides[1])), kept, skipped


def tenant_thumb_rows(
    chat: ChatFormat,
    thumbs: Sequence[Thumb],
    tenants: Sequence[str],
    question: int,
    answer: int,
    seed: int = 0,
) -> tuple[Thumbs, list[Thumb], Skipped]:
    """(`Thumbs` of `Turns`, the thumbs, what was cut). The mismatched answer is another one of the same tenant.

    chat, tenants, question, answer: as of `tenant_pair_rows`. seed: of the mismatched answers.
    """
    if not thumbs:
        raise PairError("no thumb is left")
    skipped = Skipped()
    other = mismatch([t.group for t in thumbs], [t.answer for t in thumbs], seed)
    own = [_answer(chat, t.answer, answer, skipped, t) for t in thumbs]
    make = lambda side: _turns(chat, thumbs, side, tenants, question, answer)
    liked = np.array([t.liked for t in thumbs])
    return Thumbs(make(own), make([own[i] for i in other]), liked), list(thumbs), skipped


def _asked(row: Preference | Feedback) -> tuple[Message, ...]:
    role = lambda turn: "user" if turn.role == "customer" else turn.role
    return (*((role(turn), turn.text) for turn in row.before), ("user", row.question))


def _answer(
    chat: ChatFormat, said: str, length: int, skipped: Skipped, row: Pair | Thumb
) -> Example:
    if len(chat.answer(said).ids) > length:
        skipped.add(f"answer cut to {length} tokens", row.where)
    return answer_of(chat, said, length)


def _turns(
    chat: ChatFormat,
    rows: Sequence[Pair | Thumb],
    answers: Sequence[Example],
    tenants: Sequence[str],
    question: int,
    answer: int,
) -> Turns:
    place = {name: i for i, name in enumerate(tenants)}
    if unknown := {row.group for row in rows} - set(place):
        raise PairError(f"no tenant is called {sorted(unknown)[0]!r}")
    asked = [question_of(chat, row.prompt, question) for row in rows]
    whose = np.array([place[row.group] for row in rows], np.int32)
    return Turns(tokens(asked, question, chat.pad_id), tokens(answers, answer, chat.pad_id), whose)

"""Tenants' conversations as token arrays: what the retrofit, universal and personalize stages train on. numpy only.

question   <bos> <user> ... <user> the last question          cut at the left when too long
answer     <assistant> the answer <eos>                       what stands behind its opening is predicted
piece      one thing known of a tenant: a sentence of its style guide, an answer it gave, a judged answer
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxrec.data.chat import ChatFormat
from jaxrec.data.tenant import Dialogue, Tenant
from jaxrec.data.text import Example, Rows, pad

GUIDE, ANSWER, FEEDBACK = 0, 1, 2  # kinds of evidence
KINDS = 3
_HEADING, _LIST_MARK = re.compile(r"\s*#"), re.compile(r"^\s*(?:[-*+>•]+|\d+[.)])\s+")


class TurnRows(NamedTuple):
    """N questions with their answers, the tenant's row in the profile table, and the dialogue's place in its list."""

    question: Rows
    answer: Rows
    tenant_N: np.ndarray
    dialogue_N: np.ndarray


class Pieces(NamedTuple):
    """R things known of each of U tenants, as token rows, and what each is (`KINDS`, label -1, 0 or +1).

    `count_U` says how many of the R places a tenant fills; guide sentences come first, then answers, then feedback.
    """

    rows: Rows  # leaves [U * R, L]
    kind_UR: np.ndarray
    label_UR: np.ndarray
    count_U: np.ndarray


def question_of(chat: ChatFormat, turns: Sequence[tuple[str, str]], length: int) -> Example:
    """The conversation so far, up to the last question; its oldest tokens go when it is longer than `length`."""
    ids, first = chat.question(turns), chat.marks().first
    kept = len(first) if tuple(ids[: len(first)]) == first else 0
    ids = [*ids[:kept], *ids[kept + max(len(ids) - max(length, kept), 0) :]]
    return Example(ids, [0.0] * len(ids))


def piece_of(chat: ChatFormat, said: str, length: int) -> Example:
    """A text as evidence: of one longer than `length` its beginning and its end, where greetings and closings stand."""
    ids = chat.answer(said).ids
    if len(ids) > length:
        ids = [*ids[: length - length // 2], *ids[len(ids) - length // 2 :]]
    return Example(ids, [0.0] * len(ids))


def answer_of(chat: ChatFormat, said: str, length: int) -> Example:
    """An answer to be predicted; one longer than `length` is cut and then has no end."""
    ids, loss = chat.answer(said)
    return Example(ids[:length], loss[:length])


def turn_rows(
    chat: ChatFormat,
    dialogues: Sequence[Sequence[Dialogue]],
    question_length: int,
    answer_length: int,
) -> TurnRows:
    """Dialogues by tenant (the outer index is the tenant's row in the profile table) as one set of rows.

    chat: how the model writes. dialogues: of each tenant. question_length, answer_length: tokens at most; a longer
    question loses its beginning, a longer answer its end.
    """
    flat = [(u, i, d) for u, own in enumerate(dialogues) for i, d in enumerate(own)]
    before = lambda d: [(t.role, t.text) for t in d.turns[:-1]]
    fill = lambda examples, length: pad(examples, length, chat.pad_id)
    return TurnRows(
        fill([question_of(chat, before(d), question_length) for *_, d in flat], question_length),
        fill([answer_of(chat, d.answer, answer_length) for *_, d in flat], answer_length),
        np.array([u for u, _, _ in flat], np.int32),
        np.array([i for _, i, _ in flat], np.int32),
    )


def sentences(prose: str) -> list[str]:
    """A style guide cut at its full stops and line ends; headings and the marks of lists are left out."""
    lines = [_LIST_MARK.sub("", line) for line in prose.splitlines() if not _HEADING.match(line)]
    parts = [part.strip() for line in lines for part in line.replace("? ", ". ").split(". ")]
    return [part if part.endswith((".", "!", '"')) else f"{part}." for part in parts if part]


def evidence_pieces(
    chat: ChatFormat,
    tenants: Sequence[Tenant],
    length: int,
    *,
    examples: int = 30,
    guide: int = 8,
    judged: int = 8,
) -> Pieces:
    """What is known of tenants at onboarding: `guide` sentences, `examples` answers, `judged` (dis)liked ones.

    chat: how the model writes. tenants: whose. length: tokens of a piece.
    """
    places = guide + examples + judged
    rows, kind = [], np.zeros((len(tenants), places), np.int32)
    label, count = np.zeros((len(tenants), places), np.float32), np.zeros(len(tenants), np.int32)
    nothing = Example([chat.pad_id], [0.0])
    for u, tenant in enumerate(tenants):
        own = [(GUIDE, 0.0, s) for s in sentences(tenant.guide)[:guide]]
        own += [(ANSWER, 0.0, d.answer) for d in tenant.onboarding[:examples]]
        own += [(FEEDBACK, 1.0 if f.liked else -1.0, f.answer) for f in tenant.feedback[:judged]]
        for r, (what, liked, said) in enumerate(own):
            kind[u, r], label[u, r] = what, liked
            rows.append(piece_of(chat, said, length))
        count[u] = len(own)
        rows += [nothing] * (places - len(own))
    return Pieces(pad(rows, length, chat.pad_id), kind, label, count)


# ---------------------------------------------------------------------------------------------- retrofit


def corrupt(
    chat: ChatFormat,
    ids: Sequence[int],
    rng: np.random.Generator,
    share: float = 0.15,
    span: int = 3,
) -> tuple[Example, Example]:
    """T5's span corruption (Raffel 2020): (the text with each span replaced by a sentinel, the spans it hides).

    About `share` of the tokens go, in spans of about `span`, at most as many as there are sentinels.

    chat: whose sentinels. ids: the text. rng: of the spans.
    """
    first, start, end, sentinels = chat.marks()
    n_spans = int(np.clip(round(len(ids) * share / span), 1, len(sentinels)))
    # cut the text into n_spans parts and hide a span somewhere inside each
    edges = np.linspace(0, len(ids), n_spans + 1).astype(int)
    left, hidden = list(first), list(start)
    for sentinel, low, high in zip(sentinels, edges, edges[1:], strict=False):
        size = int(min(max(1, rng.poisson(span)), max(high - low, 1)))
        at = int(rng.integers(low, max(high - size, low) + 1))
        left += [*ids[low:at], sentinel, *ids[at + size : high]]
        hidden += [sentinel, *ids[at : at + size]]
    hidden.append(end)
    loss = [0.0] * len(start) + [1.0] * (len(hidden) - len(start))
    return Example(left, [0.0] * len(left)), Example(hidden, loss)


class Alike(NamedTuple):
    """Two texts of one meaning, and what they are about ("": nobody says)."""

    meaning: str
    one: str
    other: str
    topic: str = ""


def texts_alike(tenants: Sequence[Tenant]) -> list[Alike]:
    """What a text's vector may learn from: wordings of one question where they are planted, in the sample world.

    Of other tenants a question and its answer, the weak supervision of E5 (Wang 2022).
    """
    from jaxrec.world.records import WorldTenant
    from jaxrec.world.tenants import paraphrases

    planted = [t for t in tenants if isinstance(t, WorldTenant)]
    rows = [Alike(topic, one, other, topic)
            for topic, one, other in paraphrases([t for t in planted if t.facts])]  # fmt: skip
    own = [d for t in tenants if not isinstance(t, WorldTenant) for d in t.onboarding]
    return rows + [Alike(d.answer, d.question, d.answer, d.topic) for d in own]


def topics_of(tenants: Sequence[Tenant], alike: Sequence[Alike]) -> list[str]:
    """What texts can be about: the sample world's topics where it is among the tenants, and all that rows name."""
    from jaxrec.world.records import TOPICS, WorldTenant

    start = TOPICS if any(isinstance(tenant, WorldTenant) for tenant in tenants) else ()
    return [*start, *sorted({pair.topic for pair in alike} - {*start, ""})]


def retrofit_rows(
    chat: ChatFormat,
    texts: Sequence[tuple[Sequence[tuple[str, str]], str]],
    alike: Sequence[Alike],
    topics: Sequence[str],
    *,
    context: int,
    length: int,
    seed: int = 0,
) -> dict:
    """Arrays of `structs.Retrofit` by field, as many rows as `texts`.

    Args:
      chat: the backbone's format.
      texts: (turns so far, what follows).
      alike: texts that mean the same; repeated in random order to the number of `texts`.
      topics: what they can be about, the labels for routing; a text on none of these has no label (-1).
      context: tokens of what is read.
      length: tokens of what follows it.
      seed: of the order, and of the spans that are hidden.
    """
    rng = np.random.default_rng(seed)
    pairs = [alike[i] for i in rng.permutation(len(texts)) % len(alike)]
    label = {topic: i for i, topic in enumerate(topics)}
    meaning = {m: i for i, m in enumerate(dict.fromkeys([*topics, *(a.meaning for a in alike)]))}
    spans = [corrupt(chat, chat.encode(said)[: length - 2], rng) for _, said in texts]
    cut = lambda example: Example(*(part[:length] for part in example))
    ask = lambda said: question_of(chat, [("user", said)], context)
    fill = lambda examples, length: pad(examples, length, chat.pad_id)
    return {
        "context": fill([question_of(chat, turns, context) for turns, _ in texts], context),
        "continuation": fill([answer_of(chat, said, length) for _, said in texts], length),
        "corrupted": fill([cut(left) for left, _ in spans], length),
        "spans": fill([cut(hidden) for _, hidden in spans], length),
        "first": fill([ask(pair.one) for pair in pairs], context),
        "second": fill([ask(pair.other) for pair in pairs], context),
        "meaning_B": np.array([meaning[pair.meaning] for pair in pairs], np.int32),
        "topic_B": np.array([label.get(pair.topic, -1) for pair in pairs], np.int32),
    }


def choose_evidence(
    pieces: Pieces, tenant_N: np.ndarray, dialogue_N: np.ndarray, size: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """For each training row `size` random pieces of its tenant, never the answer that is to be predicted.

    `dialogue_N` is the row's place in its tenant's onboarding. Gives (indices [N, size], which of them count
    [N, size]). How many count is itself random, from 2 up, so that an encoder learns to make do with little; they are
    dealt to the two halves of `size` in turn, so neither half is empty.

    pieces: of all tenants. tenant_N: whose row each is. size: pieces a row. seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    n = len(tenant_N)
    score = rng.random((n, pieces.kind_UR.shape[1]))
    places = np.arange(pieces.kind_UR.shape[1])[None, :]
    score[places >= pieces.count_U[tenant_N][:, None]] = 2.0  # nothing stands there
    answer = pieces.kind_UR[tenant_N] == ANSWER
    first = answer.argmax(1)
    score[answer & (places - first[:, None] == dialogue_N[:, None])] = 2.0
    order = np.argsort(score, axis=1)[:, :size]
    count = rng.integers(2, size + 1, n)
    there = (np.take_along_axis(score, order, 1) < 1.0) & (
        np.arange(size)[None, :] < count[:, None]
    )
    dealt = np.concatenate([np.arange(0, size, 2), np.arange(1, size, 2)])
    return order[:, dealt].astype(np.int32), there[:, dealt]

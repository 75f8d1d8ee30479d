"""Tenants' conversations as token arrays: what the retrofit, universal and personalize stages train on. numpy only.

question   <bos> <user> ... <user> the last question          cut at the left when too long
answer     <assistant> the answer <eos>                       every token but the first is predicted
piece      one thing known of a tenant: a sentence of its style guide, an answer it gave, a judged answer
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxrec.data.text import Example, Rows, Tokenizer, pad
from jaxrec.world.records import TOPICS, Dialogue, Tenant

GUIDE, ANSWER, FEEDBACK = 0, 1, 2  # kinds of evidence
KINDS = 3


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


def question_of(tok: Tokenizer, turns: Sequence[tuple[str, str]], length: int) -> Example:
    """The conversation so far, up to the last question; its oldest tokens go when it is longer than `length`."""
    ids: list[int] = []
    for role, said in turns:
        mark = "<assistant>" if role == "assistant" else "<user>"
        ids += [tok.special[mark], *tok.encode(said)]
    ids = [tok.special["<bos>"], *ids[max(len(ids) - length + 1, 0) :]]
    return Example(ids, [0.0] * len(ids))


def piece_of(tok: Tokenizer, said: str, length: int) -> Example:
    """A text as evidence: of one longer than `length` its beginning and its end, where greetings and closings stand."""
    ids = [tok.special["<assistant>"], *tok.encode(said), tok.special["<eos>"]]
    if len(ids) > length:
        ids = [*ids[: length - length // 2], *ids[len(ids) - length // 2 :]]
    return Example(ids, [0.0] * len(ids))


def answer_of(tok: Tokenizer, said: str, length: int) -> Example:
    """An answer to be predicted; one longer than `length` is cut and then has no <eos>."""
    ids = [tok.special["<assistant>"], *tok.encode(said), tok.special["<eos>"]][:length]
    return Example(ids, [0.0] + [1.0] * (len(ids) - 1))


def turn_rows(
    tok: Tokenizer,
    dialogues: Sequence[Sequence[Dialogue]],
    question_length: int,
    answer_length: int,
) -> TurnRows:
    """Dialogues by tenant (the outer index is the tenant's row in the profile table) as one set of rows."""
    flat = [(u, i, d) for u, own in enumerate(dialogues) for i, d in enumerate(own)]
    before = lambda d: [(t.role, t.text) for t in d.turns[:-1]]
    return TurnRows(
        pad([question_of(tok, before(d), question_length) for *_, d in flat], question_length),
        pad([answer_of(tok, d.answer, answer_length) for *_, d in flat], answer_length),
        np.array([u for u, _, _ in flat], np.int32),
        np.array([i for _, i, _ in flat], np.int32),
    )


def sentences(prose: str) -> list[str]:
    """A style guide cut at its full stops."""
    parts = [part.strip() for part in prose.replace("? ", ". ").split(". ")]
    return [part if part.endswith((".", "!", '"')) else f"{part}." for part in parts if part]


def evidence_pieces(
    tok: Tokenizer,
    tenants: Sequence[Tenant],
    length: int,
    *,
    examples: int = 30,
    guide: int = 8,
    judged: int = 8,
) -> Pieces:
    """What is known of tenants at onboarding: `guide` sentences, `examples` answers, `judged` (dis)liked ones."""
    places = guide + examples + judged
    rows, kind = [], np.zeros((len(tenants), places), np.int32)
    label, count = np.zeros((len(tenants), places), np.float32), np.zeros(len(tenants), np.int32)
    nothing = Example([tok.special["<pad>"]], [0.0])
    for u, tenant in enumerate(tenants):
        own = [(GUIDE, 0.0, s) for s in sentences(tenant.guide)[:guide]]
        own += [(ANSWER, 0.0, d.answer) for d in tenant.onboarding[:examples]]
        own += [(FEEDBACK, 1.0 if f.liked else -1.0, f.answer) for f in tenant.feedback[:judged]]
        for r, (what, liked, said) in enumerate(own):
            kind[u, r], label[u, r] = what, liked
            rows.append(piece_of(tok, said, length))
        count[u] = len(own)
        rows += [nothing] * (places - len(own))
    return Pieces(pad(rows, length), kind, label, count)


# ---------------------------------------------------------------------------------------------- retrofit


def corrupt(
    tok: Tokenizer, ids: Sequence[int], rng: np.random.Generator, share: float = 0.15, span: int = 3
) -> tuple[Example, Example]:
    """T5's span corruption (Raffel 2020): (the text with each span replaced by a sentinel, the spans it hides).

    About `share` of the tokens go, in spans of about `span`, at most as many as there are sentinels.
    """
    sentinels = [i for name, i in tok.special.items() if name.startswith("<extra_")]
    n_spans = int(np.clip(round(len(ids) * share / span), 1, len(sentinels)))
    # cut the text into n_spans parts and hide a span somewhere inside each
    edges = np.linspace(0, len(ids), n_spans + 1).astype(int)
    left, hidden = [tok.special["<bos>"]], [tok.special["<assistant>"]]
    for sentinel, low, high in zip(sentinels, edges, edges[1:], strict=False):
        size = int(min(max(1, rng.poisson(span)), max(high - low, 1)))
        start = int(rng.integers(low, max(high - size, low) + 1))
        left += [*ids[low:start], sentinel, *ids[start + size : high]]
        hidden += [sentinel, *ids[start : start + size]]
    hidden.append(tok.special["<eos>"])
    return Example(left, [0.0] * len(left)), Example(hidden, [0.0] + [1.0] * (len(hidden) - 1))


def retrofit_rows(
    tok: Tokenizer,
    texts: Sequence[tuple[Sequence[tuple[str, str]], str]],
    paraphrases: Sequence[tuple[str, str, str]],
    *,
    context: int,
    length: int,
    seed: int = 0,
) -> dict:
    """Arrays of `structs.Retrofit` by field, as many rows as `texts`, which are (turns so far, what follows).

    `paraphrases` are (topic, one wording, another); they are repeated in random order to the number of texts.
    """
    rng = np.random.default_rng(seed)
    pairs = [paraphrases[i] for i in rng.permutation(len(texts)) % len(paraphrases)]
    spans = [corrupt(tok, tok.encode(said)[: length - 2], rng) for _, said in texts]
    cut = lambda example: Example(*(part[:length] for part in example))
    ask = lambda said: question_of(tok, [("user", said)], context)
    topic = np.array([TOPICS.index(t) for t, _, _ in pairs], np.int32)
    return {
        "context": pad([question_of(tok, turns, context) for turns, _ in texts], context),
        "continuation": pad([answer_of(tok, said, length) for _, said in texts], length),
        "corrupted": pad([cut(left) for left, _ in spans], length),
        "spans": pad([cut(hidden) for _, hidden in spans], length),
        "first": pad([ask(one) for _, one, _ in pairs], context),
        "second": pad([ask(other) for _, _, other in pairs], context),
        "meaning_B": topic,
        "topic_B": topic,
    }


def choose_evidence(
    pieces: Pieces, tenant_N: np.ndarray, dialogue_N: np.ndarray, size: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """For each training row `size` random pieces of its tenant, never the answer that is to be predicted.

    `dialogue_N` is the row's place in its tenant's onboarding. Gives (indices [N, size], which of them count
    [N, size]). How many count is itself random, from 2 up, so that an encoder learns to make do with little; they are
    dealt to the two halves of `size` in turn, so neither half is empty.
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

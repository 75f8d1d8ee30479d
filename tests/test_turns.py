"""Conversations as rows: what is cut, what is kept, and that nobody's evidence holds the answer to be predicted."""

import numpy as np
import pytest

from jaxrec.data import turns
from jaxrec.data.chat import OwnChat
from jaxrec.data.text import train_tokenizer
from jaxrec.world.tenants import generate


@pytest.fixture(scope="module")
def tenants():
    return generate(n=4)


@pytest.fixture(scope="module")
def chat(tenants):
    return OwnChat(train_tokenizer([d.answer for t in tenants for d in t.onboarding], 400))


@pytest.fixture(scope="module")
def tok(chat):
    return chat.tok


def test_a_long_conversation_loses_its_oldest_tokens(tok, chat):
    said = [
        ("customer", "an old question about the mill " * 9),
        ("assistant", "Yes."),
        ("customer", "And now?"),
    ]
    short, whole = turns.question_of(chat, said, 10), turns.question_of(chat, said, 999)
    assert len(short.ids) == 10 and short.ids[0] == whole.ids[0] == tok.special["<bos>"]
    assert short.ids[1:] == whole.ids[-9:]
    assert not any(short.loss)
    assert turns.question_of(chat, said, 1).ids == [tok.special["<bos>"]]
    end = [
        tok.special["<assistant>"],
        *tok.encode("Yes."),
        tok.special["<user>"],
        *tok.encode("And now?"),
    ]
    assert whole.ids[-len(end) :] == end


def test_a_long_piece_keeps_its_beginning_and_its_end(tok, chat):
    said = "Good morning! " + "The mill is open. " * 20 + "Warm wishes, the mill."
    whole, cut = turns.piece_of(chat, said, 999).ids, turns.piece_of(chat, said, 13).ids
    assert cut == [*whole[:7], *whole[-6:]] and cut[-1] == tok.special["<eos>"]
    assert turns.piece_of(chat, said, 1).ids == whole[:1]
    assert turns.piece_of(chat, "Hm.", 13).ids == turns.piece_of(chat, "Hm.", 99).ids


def test_a_cut_answer_has_no_end(tok, chat):
    short, whole = turns.answer_of(chat, "The mill is open.", 3), turns.answer_of(chat, "Hm.", 99)
    assert len(short.ids) == 3 and tok.special["<eos>"] not in short.ids
    assert whole.ids[-1] == tok.special["<eos>"]
    assert short.loss == [0.0, 1.0, 1.0]


def test_a_style_guide_is_cut_at_its_full_stops():
    guide = 'We greet with "Hello!". Are we brief? Always. Sign off as "The mill"'
    assert turns.sentences(guide) == [
        'We greet with "Hello!"',
        "Are we brief.",
        "Always.",
        'Sign off as "The mill"',
    ]


@pytest.mark.parametrize("length", [1, 5, 20, 60])
def test_what_is_left_and_what_is_hidden_restore_the_text(tok, chat, length):
    ids = np.random.default_rng(length).integers(16, 400, length).tolist()
    sentinels = [i for name, i in tok.special.items() if name.startswith("<extra_")]
    for seed in range(20):
        left, hidden = turns.corrupt(chat, ids, np.random.default_rng(seed))
        assert left.ids[0] == tok.special["<bos>"]
        assert (hidden.ids[0], hidden.ids[-1]) == (tok.special["<assistant>"], tok.special["<eos>"])
        spans, last = {}, None
        for token in hidden.ids[1:-1]:
            if token in sentinels:
                last = spans.setdefault(token, [])
            else:
                last.append(token)
        assert list(spans) == sentinels[: len(spans)] and all(spans.values())
        restored = [x for i in left.ids[1:] for x in spans.get(i, [i])]
        assert restored == ids
        assert sum(hidden.loss) == len(hidden.ids) - 1 and not any(left.loss)


def test_rows_name_their_tenant_and_dialogue(tok, chat, tenants):
    rows = turns.turn_rows(chat, [t.onboarding[:3] for t in tenants], 24, 32)
    assert rows.tenant_N.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert rows.dialogue_N.tolist() == [0, 1, 2] * 4
    first = rows.answer["ids_BL"][4][rows.answer["mask_BL"][4]]
    assert tok.decode(first.tolist()) == tok.decode(
        tok.encode(tenants[1].onboarding[1].answer)[:31]
    )


def test_pieces_stand_in_order_and_are_counted(tok, chat, tenants):
    pieces = turns.evidence_pieces(chat, tenants, 32, examples=5, guide=3, judged=4)
    assert pieces.kind_UR.shape == (4, 12) and pieces.rows["ids_BL"].shape == (48, 32)
    for u, tenant in enumerate(tenants):
        guide = min(len(turns.sentences(tenant.guide)), 3)
        assert pieces.count_U[u] == guide + 9
        kinds = [turns.GUIDE] * guide + [turns.ANSWER] * 5 + [turns.FEEDBACK] * 4
        assert pieces.kind_UR[u, : len(kinds)].tolist() == kinds
        assert pieces.label_UR[u, guide + 5 : len(kinds)].tolist() == [1, -1, 1, -1]


def test_evidence_never_holds_the_answer_that_is_to_be_predicted(tok, chat, tenants):
    pieces = turns.evidence_pieces(chat, tenants, 32, examples=6, guide=2, judged=0)
    rows = turns.turn_rows(chat, [t.onboarding[:8] for t in tenants], 24, 32)
    tenant = np.tile(rows.tenant_N, 30)
    dialogue = np.tile(rows.dialogue_N, 30)
    size = 6
    index, there = turns.choose_evidence(pieces, tenant, dialogue, size, seed=3)
    kind = pieces.kind_UR[tenant[:, None], index]
    first = (pieces.kind_UR[tenant] == turns.ANSWER).argmax(1)
    own = (kind == turns.ANSWER) & (index - first[:, None] == dialogue[:, None])
    assert not (own & there).any()
    assert (index < pieces.count_U[tenant][:, None])[there].all()  # and only what is there
    for row in range(len(tenant)):
        chosen = index[row][there[row]]
        assert len(set(chosen)) == len(chosen)
    count = there.sum(1)
    assert count.min() == 2 and count.max() == size
    assert there[:, : size // 2].any(1).all() and there[:, size // 2 :].any(1).all()
    used = {int(i) for i in index[(tenant == 0)[:, None] & there]}
    assert used == set(range(8))  # every piece serves some row


def test_retrofit_rows_repeat_paraphrases_and_label_them(tok, chat):
    texts = [([("customer", "Are you open?")], "Yes, until five.")] * 5
    topics = ["hours", "price"]
    pairs = [
        turns.Alike("hours", "Open?", "Are you open?", "hours"),
        turns.Alike("price", "How much?", "The price?", "price"),
    ]
    rows = turns.retrofit_rows(chat, texts, pairs, topics, context=12, length=10, seed=1)
    assert {len(v["ids_BL"]) if isinstance(v, dict) else len(v) for v in rows.values()} == {5}
    assert len(set(rows["topic_B"])) == 2
    for row in range(5):
        ids = rows["first"]["ids_BL"][row][rows["first"]["mask_BL"][row]]
        assert (
            tok.decode(ids.tolist())
            == {"hours": "Open?", "price": "How much?"}[topics[rows["topic_B"][row]]]
        )

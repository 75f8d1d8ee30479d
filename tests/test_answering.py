"""Answers scored and written in batches: the same as one by one, and greedy writing is the argmax of scoring."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_personal as tiny

from jaxrec.data import turns
from jaxrec.data.chat import OwnChat
from jaxrec.data.text import pad, train_tokenizer
from jaxrec.models.personal.answering import Answering
from jaxrec.models.personal.personal_lm import PersonalLM
from jaxrec.nn.decoder import Decoder
from jaxrec.structs import Tokens

SIZE, LENGTH, LIMIT = 290, 8, 6
DECODER = dataclasses.replace(tiny.DECODER, vocab=SIZE)
LM = PersonalLM(
    Decoder(DECODER),
    dataclasses.replace(tiny.PERSONAL, head=dataclasses.replace(tiny.PERSONAL.head, vocab=SIZE)),
)


@pytest.fixture(scope="module")
def world():
    chat = OwnChat(
        train_tokenizer(
            [f"We open at {i}, the {a} mill is near." for i in range(9) for a in "xyz"], SIZE
        )
    )
    ids = jnp.zeros((1, 2), jnp.int32)
    backbone = tiny.random_like(LM.backbone.init, jax.random.key(0), ids)["params"]
    params = {"backbone": backbone, **tiny.random_like(LM.init, jax.random.key(0), seed=3)}
    asked = ["Open?", "The mill?", "When do you open the mill?"]
    questions = [turns.question_of(chat, [("customer", said)], LENGTH) for said in asked]
    answers = pad(
        [turns.answer_of(chat, said, 9) for said in ("We open at 5.", "Near.", "At 3, near.")], 9
    )
    p_NE = np.random.default_rng(1).normal(size=(3, tiny.D_P)).astype(np.float32)
    return Answering(LM, chat, rows=2, limit=LIMIT), params, questions, answers, p_NE


def test_a_batch_of_tenants_is_scored_as_one_by_one(world):
    answering, params, questions, answers, p_NE = world
    asked = pad(questions, LENGTH)
    together = answering.logprob(params, p_NE, asked, answers)
    assert together.shape == (3,)  # two batches, the second one filled up
    for i in range(3):
        one = lambda rows, i=i: {name: x[i : i + 1] for name, x in rows.items()}
        alone = answering.logprob(params, p_NE[i : i + 1], one(asked), one(answers))
        np.testing.assert_allclose(alone[0], together[i], rtol=1e-4)
    nll = answering.nll(params, p_NE, asked, answers)
    assert nll == pytest.approx(-together.sum() / answers["loss_BL"][:, 1:].sum(), rel=1e-5)


def test_a_score_is_the_sum_of_what_the_model_says(world):
    answering, params, questions, answers, p_NE = world
    asked = pad(questions, LENGTH)
    scores = answering.logprob(params, p_NE, asked, answers)

    @tiny.jit
    def said(params, p, question, answer):
        z, delta = LM.encode(params, question), LM.personal(params, p)
        return jax.nn.log_softmax(LM.answer(params, z, answer, delta).logits)

    log_p = np.asarray(said(params, p_NE, Tokens(**asked), Tokens(**answers)))
    for i in range(3):
        ids = answers["ids_BL"][i][answers["mask_BL"][i]]
        by_hand = sum(log_p[i, t - 1, ids[t]] for t in range(1, len(ids)))
        assert scores[i] == pytest.approx(by_hand, rel=1e-4)


def test_greedy_writing_is_the_argmax_of_teacher_forcing(world):
    answering, params, questions, _, p_NE = world
    written = answering.write(params, p_NE, questions, LENGTH)
    tok, asked = answering.chat.tok, Tokens(**pad(questions, LENGTH))
    ids = np.zeros((3, LIMIT + 1), np.int32)
    ids[:, 0] = tok.special["<assistant>"]
    mask = np.ones(ids.shape, bool)

    @tiny.jit
    def next_ids(params, p, question, ids):
        z, delta = LM.encode(params, question), LM.personal(params, p)
        return LM.answer(params, z, Tokens(ids, jnp.asarray(mask)), delta).logits.argmax(-1)

    for t in range(LIMIT):  # causal: what stands behind t is not seen
        ids[:, t + 1] = np.asarray(next_ids(params, p_NE, asked, ids))[:, t]
    for i in range(3):
        new = ids[i, 1:].tolist()
        end = new.index(tok.special["<eos>"]) if tok.special["<eos>"] in new else LIMIT
        assert written[i] == tok.decode(new[:end])
    assert len(set(written)) > 1


def test_the_backbone_writes_itself_with_the_person_inside(world):
    """The likeliest token by token, of the backbone with each row's Delta, after question and mark."""
    answering, params, questions, _, p_NE = world
    cfg = dataclasses.replace(LM.cfg, person="backbone", depths=(0, 1))
    lm = PersonalLM(LM.backbone, cfg)
    own = {**tiny.random_like(lm.init, jax.random.key(0), seed=6), "backbone": params["backbone"]}
    chat = answering.chat
    written = Answering(lm, chat, rows=2, limit=3).write(own, p_NE[:2], questions[:2], LENGTH)
    asked = Tokens(**pad(questions[:2], LENGTH))
    ids = np.zeros((2, 4), np.int32)
    ids[:, 0] = chat.marks().start[0]
    mask = jnp.ones(ids.shape, bool)

    @tiny.jit
    def next_ids(own, p, question, ids):
        return lm.answer(own, question, Tokens(ids, mask), lm.personal(own, p)).logits.argmax(-1)

    for t in range(3):
        ids[:, t + 1] = np.asarray(next_ids(own, p_NE[:2], asked, ids))[:, t]
    for i in range(2):
        new = ids[i, 1:].tolist()
        ends = [n for n, token in enumerate(new) if token in chat.eos_ids]
        assert written[i] == chat.decode(new[: ends[0] if ends else None])


def test_writing_depends_on_ones_own_row_alone(world):
    answering, params, questions, _, p_NE = world
    together = answering.write(params, p_NE, questions, LENGTH, temperature=1.0, seed=4)
    again = answering.write(params, p_NE[:2], questions[:2], LENGTH, temperature=1.0, seed=4)
    assert together[:2] == again
    other = answering.write(params, p_NE, questions, LENGTH, temperature=1.0, seed=5)
    assert other != together


def test_what_is_streamed_is_what_is_written(world):
    answering, params, questions, _, p_NE = world
    two = params, p_NE[:2], questions[:2], LENGTH
    pieces = list(answering.stream(*two, temperature=1.0, seed=4))
    joined = ["".join(parts) for parts in zip(*pieces, strict=True)]
    assert joined == answering.write(*two, temperature=1.0, seed=4) and len(pieces) > 1

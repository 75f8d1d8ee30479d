"""The retriever: untrained it is its encoder, trained it finds texts by a planted map and by who asks."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config import RunError
from jaxrec.data.question_sets import TEST, TRAIN, VALID, QuestionSetConfig, read_question_set
from jaxrec.losses.ranking import found_among
from jaxrec.models.text.retriever import (
    Retriever,
    RetrieverConfig,
    init_retriever,
    load_retriever,
    question_vectors,
    save_retriever,
    text_vectors,
)
from jaxrec.retrieval.passages.abstention import SIGNS, fit_abstention, signs
from jaxrec.retrieval.passages.encoder import TextEncoder
from jaxrec.retrieval.passages.mining import hard_negatives
from jaxrec.retrieval.passages.quotes import Found
from jaxrec.retrieval.top_k import SearchError


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_nobody_is_found_among_equals_and_the_right_text_again_is_no_negative():
    same = jnp.ones((4, 3)) / np.sqrt(3)
    numbers = jnp.arange(4)
    sums = found_among(same, jnp.concatenate([same, same]), numbers, jnp.arange(8))
    assert float(sums["nce"]) == pytest.approx(4 * np.log(8), rel=1e-5)
    again = found_among(same, jnp.concatenate([same, same]), numbers, jnp.arange(8) % 4)
    assert float(again["nce"]) == pytest.approx(4 * np.log(7), rel=1e-5)
    eye = jnp.eye(4)
    assert float(found_among(eye, eye, numbers, numbers)["hits"]) == 4
    assert float(found_among(eye, eye[::-1], numbers, numbers)["hits"]) == 0


@pytest.mark.parametrize("shared", [True, False])
def test_untrained_it_changes_nothing_and_a_folder_keeps_it(shared, tmp_path):
    cfg = RetrieverConfig(8, 3, shared, "encoder")
    z = unit(np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32))
    params = init_retriever(cfg)
    assert np.allclose(question_vectors(params, jnp.asarray(z), jnp.ones((5, 3))), z, atol=1e-6)
    assert np.allclose(text_vectors(params, jnp.asarray(z)), z, atol=1e-6)
    moved = {name: np.asarray(x) + 0.1 for name, x in params.items()}
    model = Retriever(cfg, {"retriever": moved}, "minilm")
    save_retriever(tmp_path / "m", model, {"fold": "0"})
    again = load_retriever(tmp_path / "m")
    p = np.ones((5, 3), np.float32)
    assert np.allclose(again.questions(z, p), model.questions(z, p)) and again.cfg == cfg
    assert not np.allclose(model.questions(z, p), model.questions(z))
    asked = []
    plain = TextEncoder(
        "minilm:0", lambda texts: z[: len(texts)], lambda t: asked.append(t) or z[:1]
    )
    over = model.over(plain, p[0])
    assert (
        np.allclose(over.embed_queries(["x"]), model.questions(z[:1], p[:1]), atol=1e-6) and asked
    )
    assert np.allclose(over.embed_passages(["x"]), model.texts(z[:1]), atol=1e-6)
    assert over.name.startswith("minilm:0>") and over.name != plain.name
    with pytest.raises(RunError, match="stands on minilm"):
        model.over(dataclasses.replace(plain, name="mpnet:0"))
    with pytest.raises(RunError, match="without p"):
        plainer = dataclasses.replace(model, cfg=RetrieverConfig(8))
        plainer.profiles(z, np.zeros((1, 1), int), np.zeros((1, 1), int))


def test_a_mean_p_is_the_guide_less_everybodys_and_a_stranger_has_none():
    z = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    cfg = RetrieverConfig(8, 8)
    center = z[:2].mean(0)
    model = Retriever(cfg, {"retriever": init_retriever(cfg), "center": center}, "minilm")
    shown, kind = np.array([[0, 2], [1, 3], [-1, -1]]), np.array([[0, 1], [0, 0], [0, 0]])
    p = model.profiles(z, shown, kind)
    assert np.allclose(p, [z[0] - center, z[[1, 3]].mean(0) - center, 0 * center], atol=1e-6)
    asked = unit(z[:1])
    assert np.allclose(model.questions(asked, p[:1]), unit(asked + 3 * p[:1]), atol=1e-6)
    with pytest.raises(ValueError, match="d_p is that"):
        RetrieverConfig(8, 4)


def test_hard_negatives_are_wrong_allowed_and_first():
    cosine = np.array([[0.9, 0.8, 0.7, 0.6, 0.5]])
    words = np.zeros((1, 5))
    allowed = np.array([True, False, True, True, True])
    found = hard_negatives(cosine, words, np.array([0]), allowed, 2)
    assert found.tolist() == [[2, 3]]
    with pytest.raises(SearchError, match="fewer"):
        hard_negatives(cosine, words, np.array([0]), allowed, 4)


def write_pairs(path, n=40):
    rows = [
        {"question": f"What of thing {i}?", "text": f"It is number {i // 2}."} for i in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_every_text_is_tested_once_with_all_its_questions(tmp_path):
    cfg = QuestionSetConfig("pairs", files=(write_pairs(tmp_path / "p.jsonl"),), folds=4)
    data = read_question_set(cfg)
    assert (len(data.questions), len(data.texts)) == (40, 20)
    assert ((data.part_FI == TEST).sum(0) == 1).all()
    for fold in range(4):
        parts = {int(text): set(data.part_N(fold)[data.right_N == text]) for text in range(20)}
        assert all(part == {int(data.part_FI[fold, text])} for text, part in parts.items())
        assert {TRAIN, VALID, TEST} == set(data.part_FI[fold].tolist())


def write_tenants(path, tenants=1, pages=("hours",)):
    def tenant(name):
        said = [
            {"question": f"When is {name} open, {i}?", "answer": f"At {i}.", "pages": list(pages)}
            for i in range(12)
        ]
        page = {"id": "hours", "title": "Hours", "text": f"{name} opens at nine."}
        return {"key": name, "guide": "Be short. Be kind.", "dialogues": said, "pages": [page]}

    rows = [tenant(f"{path.stem}{u}") for u in range(tenants)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_tenants_are_tested_by_others_and_p_reads_no_answer_that_is_asked_for(tmp_path):
    learned, held = (
        write_tenants(tmp_path / f"{name}.jsonl", n) for name, n in (("l", 8), ("h", 2))
    )
    cfg = QuestionSetConfig("tenants", sources=(learned,), held=(held,), asked=3)
    data = read_question_set(cfg)
    tested = data.part_N(0) == TEST
    assert {data.tenants[u][0] for u in data.tenant_N[tested]} == {"h"}
    assert {data.tenants[u][0] for u in data.tenant_N[~tested]} == {"l"}
    assert {TRAIN, VALID} < set(data.part_N(0).tolist()) and len(data.questions) == 30
    assert (data.owner_I[data.right_N] == data.tenant_N).all()
    known = {data.known[k] for k in data.shown_US.ravel() if k >= 0}
    asked = {int(q.split(", ")[1][:-1]) for q in data.questions}
    assert "Be kind." in known and known.isdisjoint({f"At {i}." for i in asked})


def test_what_is_refused(tmp_path):
    short = write_pairs(tmp_path / "short.jsonl", 4)
    shops = write_tenants(tmp_path / "a.jsonl")
    mute, silent = (write_tenants(tmp_path / f"{name}.jsonl", pages=()) for name in "bc")
    (tmp_path / "bad.jsonl").write_text('{"question": "a"}\n')
    refused = {
        "no questions are named": QuestionSetConfig(),
        "name files": QuestionSetConfig("pairs"),
        "there is no file": QuestionSetConfig("pairs", files=("nowhere.jsonl",)),
        "a pair is": QuestionSetConfig("pairs", files=(str(tmp_path / "bad.jsonl"),)),
        "can't be dealt": QuestionSetConfig("pairs", files=(short,)),
        "name tenants": QuestionSetConfig("tenants"),
        "both learned from": QuestionSetConfig("tenants", sources=(shops,), held=(shops,)),
        "no conversation": QuestionSetConfig("tenants", sources=(mute,), held=(silent,)),
    }
    for message, cfg in refused.items():
        with pytest.raises(RunError, match=message):
            read_question_set(cfg)


def test_abstention_tells_answered_questions_from_others():
    rng = np.random.default_rng(0)
    yes, no = (rng.normal(size=(300, len(SIGNS))) + shift * np.eye(6)[0] for shift in (1.5, -1.5))
    made = fit_abstention(np.concatenate([yes, no]), np.arange(600) < 300)
    assert (made.probability(no) < made.threshold).mean() == pytest.approx(0.95, abs=0.01)
    assert (made.probability(yes) >= made.threshold).mean() > 0.8
    assert abs(made.weights[0]) > 5 * max(map(abs, made.weights[1:]))
    nothing = Found("?", (), ())
    assert not made.answers(nothing) and not signs(nothing).any()
    with pytest.raises(SearchError, match="both needed"):
        fit_abstention(yes, np.ones(300, bool))


@pytest.mark.slow
def test_the_stage_learns_a_planted_map_by_folds_and_who_asks(tmp_path, monkeypatch):
    from jaxrec.models.text.kept_vectors import TextVectors
    from train import retriever as stage

    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    made = {}

    def read_vectors(texts, source, *, cache):
        # A question's vector is its text's, turned; what is untrained finds nothing of that.
        number = lambda text: int("".join(filter(str.isdigit, text)))
        for text in texts:
            made.setdefault(text, rng.normal(size=16))
        at = [
            made[f"It is number {number(t) // 2}."] @ turn if t.startswith("What") else made[t]
            for t in texts
        ]
        return TextVectors(unit(np.stack(at)).astype(np.float32))

    monkeypatch.setattr(stage, "read_vectors", read_vectors)
    made |= {f"It is number {i}.": rng.normal(size=16) for i in range(150)}
    cfg = stage.RetrieverStageConfig(
        data=QuestionSetConfig("pairs", files=(write_pairs(tmp_path / "p.jsonl", 300),), folds=2),
        model=RetrieverConfig(16, shared=False), rows=32, out=str(tmp_path / "out"),
        opt=dataclasses.replace(stage.RetrieverStageConfig().opt, lr=2e-2),
        loop=dataclasses.replace(stage.RetrieverStageConfig().loop, progress=False),
    )  # fmt: skip
    found = stage.main(cfg)
    assert set(found) == {"0", "1", "whole"} and min(found.values()) > 0.8
    assert stage.main(cfg) == found  # a finished run says the same again
    again = load_retriever(tmp_path / "out" / "0" / "model")
    assert again.source == "minilm"
    with pytest.raises(RunError, match="nothing of who asks"):
        stage.main(dataclasses.replace(cfg, model=RetrieverConfig(16, 16)))
    with pytest.raises(RunError, match=r"set model\.d_z"):
        stage.main(dataclasses.replace(cfg, model=RetrieverConfig(8)))

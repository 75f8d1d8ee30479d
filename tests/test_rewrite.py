"""Rewriting: what is read, and that training, saving and judging go through on a model of toy size."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny_personal as tiny

from jaxrec import checkpoint, config, hub
from jaxrec import mesh as meshes
from jaxrec.config import RunError
from jaxrec.data.chat import OwnChat
from jaxrec.data.rewrites import REWRITE, rewrite_request, rewrite_rows, rewrites
from jaxrec.data.text import train_tokenizer
from jaxrec.models.personal.personal_folder import load_personal, save_personal
from jaxrec.world.tenants import generate


@pytest.fixture(scope="module")
def tok():
    texts = [d.answer for t in generate(n=6) for d in t.onboarding]
    return train_tokenizer([*texts, REWRITE], 320)


def test_a_draft_is_a_turn_of_what_is_read_and_the_own_answer_is_learned(tok):
    made = rewrites(generate(n=3), 2)
    rows = rewrite_rows(OwnChat(tok), made, 256, 160)
    read = tok.decode(rows.question["ids_BL"][0][rows.question["mask_BL"][0]].tolist())
    for said in (made[0].question, made[0].draft, REWRITE):
        assert said in read
    answer = rows.answer["ids_BL"][0][rows.answer["mask_BL"][0]]
    assert made[0].own in tok.decode(answer.tolist())
    assert rows.tenant_N.tolist() == [0, 0, 1, 1, 2, 2] and (rows.dialogue_N == -1).all()
    assert [role for role, _ in rewrite_request("q", "d")] == ["user", "assistant", "user"]


def test_without_planted_facts_drafts_are_the_answers_that_were_rejected():
    tenant = dataclasses.replace(generate(n=1)[0], facts={})
    (made,) = rewrites([tenant], 1)
    pair = tenant.preferences[0]
    assert (made.question, made.draft, made.own) == (pair.question, pair.rejected, pair.chosen)
    assert made.style is None and made.facts == ()


@pytest.mark.slow
def test_training_and_judging_from_end_to_end(tok, tmp_path, monkeypatch):
    import jaxrec.eval.rewrite as judge
    import jaxrec.train.rewrite as stage
    from jaxrec.training.loop import LoopConfig

    cfg = dataclasses.replace(tiny.DECODER, vocab=tok.size, cuts=())
    backbone = hub.model_of(cfg)
    weights = tiny.random_like(backbone.init, jax.random.key(0), np.zeros((1, 2), np.int32))
    hub.save(tmp_path / "backbone", cfg, weights["params"])
    tok.save(tmp_path / "backbone" / "tokenizer.json")
    _, loaded = hub.load(tmp_path / "backbone")
    head = dataclasses.replace(tiny.PERSONAL.head, vocab=tok.size)
    lm = dataclasses.replace(
        tiny.LM, backbone=backbone, cfg=dataclasses.replace(tiny.PERSONAL, head=head)
    )
    own = {**tiny.random_like(lm.init, jax.random.key(0)), "encoder": tiny.params()["encoder"]}
    facts = {
        "backbone": str(tmp_path / "backbone"),
        "backbone_hash": checkpoint.fingerprint(loaded),
        "lfe": config.to_dict(tiny.PERSONAL.lfe),
    }
    save_personal(tmp_path / "start", lm, tiny.ENCODER, own, ["a"], facts)
    one = meshes.make(meshes.MeshConfig(), jax.devices()[:1])
    for module in (stage, judge):
        monkeypatch.setattr(module.mesh, "make", lambda *cfg: one)
    train = stage.RewriteConfig(
        str(tmp_path / "start"), tenants=("world:train:10",), each=2, question=160, answer=64, rows=8,
        loop=LoopConfig(steps=3, progress=False), out=str(tmp_path / "run"),
    )  # fmt: skip
    assert stage.main(train) == {"step": 3}
    model = load_personal(tmp_path / "run" / "model", one)
    moved = jax.tree.map(
        lambda a, b: bool(np.any(np.asarray(a) != b)), model.params["head"], own["head"]
    )
    assert any(jax.tree.leaves(moved))
    same = jax.tree.map(np.array_equal, jax.device_get(model.params["lfe"]), own["lfe"])
    assert all(jax.tree.leaves(same))
    path = judge.main(
        judge.RewriteEvalConfig(
            str(tmp_path / "run" / "model"), tenants=10, each=2, question=160, answer=8, rows=4,
            draws=20, out=str(tmp_path),
        )
    )  # fmt: skip
    rows = {row["row"]: row for row in json.loads(path.read_text())["rows"]}
    assert rows["own_answer"]["facts"] == rows["draft"]["facts"] == 1.0
    assert rows["own_answer"]["style"] > rows["draft"]["style"] > rows["own_p"]["style"]
    with pytest.raises(RunError, match="two are needed"):
        judge.main(judge.RewriteEvalConfig(str(tmp_path / "run" / "model"), tenants=4))

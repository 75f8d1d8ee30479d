"""Tuning of the highest layers alone: kept states give what computed ones give, and training ends where it should."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxrec import hub, mesh
from jaxrec.config import RunError
from jaxrec.data.feature_store import FeatureConfig
from jaxrec.data.instructions import Instruction
from jaxrec.data.text import train_tokenizer
from jaxrec.delta import DeltaConfig
from jaxrec.eval import prefer
from jaxrec.eval.peft_tasks import Task
from jaxrec.eval.peft_training import Method, Sizes
from jaxrec.models.language.top_layers import load_top, on_top, top_rule
from jaxrec.nn.decoder import DecoderConfig

CFG = DecoderConfig(
    vocab=300, d_model=16, layers=3, heads=2, groups=1, head_dim=8, d_ff=24, max_positions=64,
    tied=True, init_std=0.2,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    place, rng = tmp_path_factory.mktemp("base"), np.random.default_rng(0)
    like = hub.shapes_of(CFG)
    hub.save(place, CFG, jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype("f4"), like))
    words = [f"The {a} of {b} opens at {i}." for i in range(12) for a in "xyzu" for b in "vwst"]
    train_tokenizer(words, 300).save(place / "tokenizer.json")
    yield place
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    """(a LoRA on the highest layer over kept states, the same that computes them)."""
    rows = [
        Instruction((("user", f"{a} {b} now"), ("assistant", f"{b} {a}")), f"toy:{i}")
        for i, (a, b) in enumerate((a, b) for a in "red blue green pinks".split() for b in "cup car hats".split())
    ]  # fmt: skip
    toy = Task("toy", rows[:6], rows[6:9], rows[9:], "accuracy", 64, 12)
    sizes = Sizes(steps=4, warmup=1, tokens=128, valid=3, test=3, top=1, every=1, patience=2, system="Say")  # fmt: skip
    kept = FeatureConfig(str(tmp_path_factory.mktemp("states")), dtype="float32")
    base, devices = load_top(folder, 1), mesh.make(devices=jax.devices()[:1])
    return [
        Method("lora", base, toy, dataclasses.replace(sizes, features=features), devices)
        for features in (kept, FeatureConfig())
    ]


def test_kept_states_train_and_measure_as_computed_ones(made):
    kept, computed = made
    assert kept.rows.states_BLD is not None and computed.rows.states_BLD is None
    assert (kept.rows.segments_BL.max(1) > 1).any()  # some rows are packed of several
    a, b = (method.train(1e-2, 0, steps=3) for method in made)
    assert list(a.tree["delta"].stacks) == ["stack_1"]
    for x, y in zip(
        jax.tree.leaves(a.tree["delta"]), jax.tree.leaves(b.tree["delta"]), strict=True
    ):
        np.testing.assert_allclose(x, y, atol=2e-5)
    assert kept.score(a.tree, "test") == pytest.approx(computed.score(a.tree, "test"), rel=1e-5)


def test_training_ends_where_validation_does_and_gives_the_best_weights(made, monkeypatch):
    method, seen = made[0], []

    def score(tree, part):
        seen.append(np.asarray(tree["delta"].stacks["stack_1"].lora["q"].b_NBRF))
        return {"nll": [3.0, 1.0, 2.0, 1.5, 0.5][len(seen) - 1]}

    monkeypatch.setattr(method, "score", score)
    outcome = method.train(1e-2, 0)
    assert outcome.curve == [(1, 3.0), (2, 1.0), (3, 2.0), (4, 1.5)] and outcome.step == 2
    given = np.asarray(outcome.tree["delta"].stacks["stack_1"].lora["q"].b_NBRF)
    np.testing.assert_array_equal(given, seen[1])
    assert not np.array_equal(given, seen[3])


def test_what_has_no_top_is_refused(folder):
    with pytest.raises(RunError, match="has 3 layers, so 1 to 2"):
        load_top(folder, 3)
    cut = load_top(folder, 1).cfg
    with pytest.raises(RunError, match="soft prompt"):
        on_top(DeltaConfig(prompt_length=2), 1, cut)
    assert top_rule(1, cut) == "backbone/(stack_1)/.*"


def test_gain_is_of_the_same_pairs_and_draws_tenants_where_there_are_many():
    reward, logp = np.array([1.0, 1, -1, 1] * 20), np.array([1.0, -1, -1, -1] * 20)
    known = {"chosen_reward": reward, "rejected_reward": np.zeros(80)}
    before = {"chosen_logp": logp, "rejected_logp": np.zeros(80)}
    alone = prefer.gain(known, before, ["all"] * 80)
    assert alone["gain"] == pytest.approx(0.5) and alone["drawn"] == "pairs"
    assert 0.35 < alone["gain_lo"] < 0.45 and 0.55 < alone["gain_hi"] < 0.65
    # Every tenant has the same four pairs, so who is drawn makes no difference.
    tenants = prefer.gain(known, before, [f"tenant {i // 4}" for i in range(80)])
    assert tenants == {"gain": 0.5, "gain_lo": 0.5, "gain_hi": 0.5, "drawn": "groups"}


@pytest.mark.slow
def test_preferences_on_the_top_are_resumed_and_told_against_the_untuned(
    folder, tmp_path, monkeypatch
):
    one = mesh.make(devices=jax.devices()[:1])
    monkeypatch.setattr(mesh, "make", lambda _: one)
    pairs = [
        {"prompt": f"the {i % 3}", "chosen": f"of {i}", "rejected": f"opens {i} at"} for i in range(12)
    ]  # fmt: skip
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, pairs)))
    cfg = prefer.PreferEvalConfig(
        base=str(folder), data=(str(file),), held=(str(file),), test_pairs=6, rows=4, steps=3, length=32,
        contenders=(prefer.Contender("sigmoid", prefer.PreferenceLoss(), 1e-2),), top=1, system="Say",
        features=FeatureConfig(str(tmp_path / "states"), dtype="float32"),
        work=str(tmp_path / "work"), out=str(tmp_path / "out"),
    )  # fmt: skip
    rows = prefer.main(cfg)
    assert [row["row"] for row in rows] == ["shorter answer", "untuned", "sigmoid"]
    assert rows[2]["n"] == 6 and rows[2]["drawn"] == "pairs"
    assert rows[2]["gain"] == pytest.approx(rows[2]["accuracy"] - rows[1]["likelier"])
    assert prefer.main(cfg) == rows  # train_s too: nothing was trained again
    computed = prefer.main(dataclasses.replace(cfg, features=FeatureConfig()))
    assert computed[2]["margin"] == pytest.approx(rows[2]["margin"], abs=1e-5)
    assert computed[2]["margin"] != 0

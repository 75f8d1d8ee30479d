"""The comparison of PEFT methods: a fair split, one program for all rates and seeds, honest measures."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench import report
from jaxrec import hub, mesh
from jaxrec.config import RunError
from jaxrec.data.instructions import Instruction
from jaxrec.data.text import Example, pad, train_tokenizer
from jaxrec.eval import peft
from jaxrec.eval.peft_counted import claims, counted
from jaxrec.eval.peft_tasks import PARTS, Task, joined, side, task, template
from jaxrec.eval.peft_training import Method, Sizes, with_rate
from jaxrec.models.language.tuned_folder import load_tuned
from jaxrec.models.language.writing import GREEDY
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.structs import Tokens

CFG = DecoderConfig(
    vocab=300, d_model=16, layers=2, heads=2, groups=1, head_dim=8, d_ff=24, max_positions=64,
    tied=True, init_std=0.2,
)  # fmt: skip
SIZES = Sizes(steps=4, warmup=1, tokens=64, valid=4, test=6, written=3, new=5)


@pytest.fixture(scope="module")
def quickly():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def toy():
    """Answers that are two of the question's words."""
    rows = [
        Instruction((("user", f"{a} {b} now"), ("assistant", f"{b} {a}")), f"toy:{i}")
        for i, (a, b) in enumerate((a, b) for a in "red blue green pink".split() for b in "cup car hat".split())
    ]  # fmt: skip
    return Task("toy", rows[:6], rows[6:9], rows[9:], "accuracy", 24, 12)


@pytest.fixture(scope="module")
def base(tmp_path_factory, quickly):
    folder = tmp_path_factory.mktemp("base")
    rng = np.random.default_rng(0)
    like = hub.shapes_of(CFG)
    hub.save(folder, CFG, jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype("f4"), like))
    words = [f"The {a} of {b} opens at {i}." for i in range(12) for a in "xyzu" for b in "vwst"]
    train_tokenizer(words, 300).save(folder / "tokenizer.json")
    return load_tuned(folder)


@pytest.fixture(scope="module")
def devices():
    return mesh.make(devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def lora(base, toy, devices):
    return Method("lora", base, toy, SIZES, devices)


# ---------------------------------------------------------------------------------------------------- split


def test_templates_forget_how_politely_one_asks():
    same = [
        "could you help me cancelling order {{Order Number}}?",
        "I want to cancel my orders pls",
    ]
    assert len({template(said) for said in same}) == 1
    assert template("track the order") != template("cancel the order")


def test_rows_that_share_a_key_over_steps_are_one_template():
    keys = joined([("q1", "a1"), ("q2", "a1"), ("q2", "a2"), ("q3", "a3"), ("q9", "a2")])
    assert len({keys[i] for i in (0, 1, 2, 4)}) == 1 and keys[3] != keys[0]


def test_sides_are_decided_by_the_template_alone():
    sides = [side(f"key {i}") for i in range(3000)]
    assert sides == [side(f"key {i}") for i in range(3000)]
    for part, share in PARTS.items():
        assert sides.count(part) / 3000 == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(("name", "rows"), [("bitext", 8222), ("bank-faqs", 1200)])
def test_no_wording_is_on_two_sides(name, rows, data_dir):
    made = task(name)
    parts = [made.train, made.valid, made.test]
    assert sum(map(len, parts)) > rows and made.templates > 1000
    keys = [{template(one.prompt[0][1]) for one in part} for part in parts]
    answers = [{one.answer for one in part} for part in parts]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert not keys[i] & keys[j]
        if name == "bank-faqs":
            assert not answers[i] & answers[j]
    if name == "bitext":
        assert len(answers[0]) == 27


def test_an_unknown_task_or_method_is_named():
    with pytest.raises(RunError, match="no task 'bitexts'"):
        task("bitexts")
    with pytest.raises(RunError, match="no method 'lorra'"):
        peft.main(peft.PeftConfig(methods=("lorra",)))
    with pytest.raises(RunError, match="no learning rate for 'lora'"):
        peft.main(peft.PeftConfig(methods=("lora",), rates={}))


# ------------------------------------------------------------------------------------------------- training


def test_rates_and_seeds_share_one_program_and_differ_in_what_they_should(lora):
    slow, fast, again = (lora.train(rate, 0) for rate in (1e-4, 1e-2, 1e-2))
    other = lora.train(1e-2, 1)
    assert lora.step._cache_size() == 1 and len(fast.step_s) == SIZES.steps - 1
    b = lambda outcome: np.asarray(outcome.tree["delta"].stacks["stack_0"].lora["q"].b_NBRF)
    np.testing.assert_array_equal(b(fast), b(again))
    assert np.abs(b(slow)).max() < 0.05 * np.abs(b(fast)).max()
    assert not np.array_equal(b(fast), b(other))


def test_with_rate_changes_the_rate_alone(lora):
    opt = lora._start.opt
    changed = with_rate(opt, 0.25)
    moved = [float(b) for a, b in zip(jax.tree.leaves(opt), jax.tree.leaves(changed), strict=True)
             if a.shape == () and float(a) != float(b)]  # fmt: skip
    assert moved == [0.25]


def test_exact_is_what_greedy_decoding_writes(lora):
    """What decoding wrote is called right, token by token; with its last token changed it is not."""
    tree, chat = lora.train(3e-2, 0).tree, lora.base.chat
    openings = [chat.opening(one.prompt) for one in lora.task.test]
    written = lora._writer(tree, openings, how=dataclasses.replace(GREEDY, max_new=5)).ids
    row = lambda a, b: Example([*a, *b], [0.0] * len(a) + [1.0] * len(b))
    rows = [row(a, b) for a, b in zip(openings, written, strict=True)]
    assert all(written)
    changed = [Example([*e.ids[:-1], (e.ids[-1] + 1) % 300], e.loss) for e in rows]
    for examples, wanted in ((rows, True), (changed, False)):
        _, right_B = lora._score(tree, Tokens(**pad(examples, 24)))
        assert np.asarray(right_B).tolist() == [wanted] * 3


def test_nats_are_those_of_the_plain_loss(lora):
    tree = {"backbone": lora.base.tree["backbone"]}
    total, count = 0.0, 0.0
    for one in lora.task.test:
        ids, loss = lora.base.chat.example(one.messages)
        logits = np.asarray(
            _logits(tree["backbone"], jnp.array([ids + [0] * (24 - len(ids))] * 3))
        )[0]
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        for t in range(1, len(ids)):
            total, count = total - loss[t] * log_p[t - 1, ids[t]], count + loss[t]
    assert lora.score(tree, "test")["nll"] == pytest.approx(total / count, rel=1e-4)


_logits = jax.jit(lambda params, ids: Decoder(CFG).apply({"params": params}, ids).logits)


def test_a_row_is_made_once_and_kept(base, toy, devices, tmp_path, monkeypatch):
    cfg = peft.PeftConfig(
        sizes=dataclasses.replace(SIZES, steps=2),
        seeds=2,
        memory=False,
        out=str(tmp_path),
        rates={"ia3": (1e-2, 1e-1)},
    )
    row = peft.row_of(cfg, "ia3", base, toy, devices, None, tmp_path)
    assert row["rate"] in (1e-2, 1e-1) and row["accuracy_sd"] is not None and row["bytes"] > 1000
    assert row["parameters"] == 2 * (
        8 + 8 + 24
    )  # k and v of one group, and what enters `down`, in two layers
    monkeypatch.setattr(peft, "Method", None)
    assert peft.row_of(cfg, "ia3", base, toy, devices, None, tmp_path) == row
    with pytest.raises(TypeError):
        peft.row_of(dataclasses.replace(cfg, seeds=3), "ia3", base, toy, devices, None, tmp_path)


# -------------------------------------------------------------------------------------------------- claims


def test_what_is_counted_of_a_7b_model_is_the_published_size():
    rows = {row["method"]: row for row in counted()}
    assert rows["full"]["parameters"] == 6_738_415_616  # as published
    assert rows["lora"]["parameters"] == 32 * 4 * 16 * 2 * 4096
    said = {row["specification"]: row for row in claims()}
    assert said["001 (r 16 on q, k, v)"]["parameters"] == 12_582_912
    assert [row["holds"] for row in claims()] == [True, False, False, False, True, False, True]


def test_the_table_says_what_the_files_say(tmp_path):
    from jaxrec.results import write_results

    folder = tmp_path / "peft"
    write_results(folder, "peft_counted", counted(), claims=claims(), filename="counted.json")
    row = {
        "method": "lora", "accuracy": 0.51234, "accuracy_sd": 0.01, "nll": 0.4, "nll_sd": 0.02,
        "parameters": 86016, "percent": 3.57, "rate": 0.01, "bytes": 339000, "peak_mb": 120.4, "step_ms": 97.2,
    }  # fmt: skip
    facts = {"train": 5, "valid": 2, "test": 3, "templates": 4, "measure": "accuracy"}
    write_results(folder, "peft", [row], task=facts, filename="bitext.json")
    made = report.table("peft", tmp_path)
    assert (
        "| lora | 0.5123 ± 0.0100 | 0.4000 ± 0.0200 | 86,016 | 3.57 % | 0.01 | 339 KB | 120 MB | 97 ms |"
        in made
    )
    assert "6,738,415,616" in made and "LoRA trains 6.5M parameters" in made
    assert json.loads((folder / "bitext.json").read_text())["task"] == facts
    assert Path(folder / "counted.json").is_file()

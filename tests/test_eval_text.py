"""Answers against references: by a tiny model and from files, every measure, and what is wrong in a line."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_assistant

from jaxrec import hub
from jaxrec.assistant import Assistant
from jaxrec.config import ConfigError, RunError
from jaxrec.data.instructions import read_instructions
from jaxrec.data.text import train_tokenizer
from jaxrec.eval import text as eval_text
from jaxrec.eval.text import TextConfig, TextError
from jaxrec.files import write_json_lines
from jaxrec.metrics import ratio
from jaxrec.models.language.tuned_folder import load_tuned
from jaxrec.models.language.tuned_lm import nats
from jaxrec.nn.decoder import Decoder, DecoderConfig

CFG = DecoderConfig(
    vocab=290, d_model=16, layers=1, heads=1, groups=1, head_dim=16, d_ff=32, max_positions=64,
    tied=True, init_std=0.2,
)  # fmt: skip
ROWS = [
    {"prompt": f"{a} {b}?", "completion": f"{b} {a}."} for a in ("red", "blue") for b in ("cup", "hat", "bag")
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("tiny")
    first = lambda key: Decoder(CFG).init(key, jnp.zeros((1, 2), jnp.int32))["params"]
    params = jax.jit(first)(jax.random.key(0))
    hub.save(at / "model", CFG, jax.device_get(params))
    tok = train_tokenizer(
        [" ".join(row.values()) for row in ROWS] + ["one more merge here and there"], 290
    )
    tok.save(at / "model" / "tokenizer.json")
    (at / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    return at


def config_of(folder: Path, out: Path, **changes) -> TextConfig:
    known = {"data": (str(folder / "rows.jsonl"),), "draws": 50, "out": str(out)}
    return TextConfig(**known | changes)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_model_answers_and_is_scored(folder, tmp_path, capsys):
    cfg = config_of(
        folder, tmp_path, model=str(folder / "model"), metrics=("rouge", "exact", "nats"),
        new=4, rows=4, length=64,
    )  # fmt: skip
    found = eval_text.main(cfg)
    rows = lines(tmp_path / "rows.jsonl")
    assert [row["reference"] for row in rows] == [row["completion"] for row in ROWS]
    assert found["rouge1"] == pytest.approx(np.mean([row["rouge1"] for row in rows]))
    tokens = sum(row["tokens"] for row in rows)
    assert found["nats"] == pytest.approx(sum(row["nats"] for row in rows) / tokens)
    assert found["perplexity"] == pytest.approx(math.exp(found["nats"]))
    record = json.loads((tmp_path / "results.json").read_text())
    (row,) = record["rows"]
    assert row["n"] == 6 and row["nats_lo"] <= row["nats"] <= row["nats_hi"]
    assert "ROUGE" not in capsys.readouterr().err
    # an interrupted run goes on from its whole batches: four answers of five
    part = tmp_path / "answers.part.jsonl"
    tuned = load_tuned(folder / "model")
    asked = eval_text.read(cfg)
    openings = [tuned.chat.opening(one.prompt) for one in asked]
    kept = [
        {"of": eval_text.content_of(cfg, openings, tuned.base_hash)},
        *({"text": f"kept {i}"} for i in range(5)),
    ]
    part.write_text("".join(json.dumps(row) + "\n" for row in kept) + '{"te')
    eval_text.main(cfg)
    told = [row["prediction"] for row in lines(tmp_path / "rows.jsonl")]
    assert sorted(t for t in told if t.startswith("kept")) == [f"kept {i}" for i in range(4)]
    assert [
        t for t, row in zip(told, rows, strict=True) if not t.startswith("kept")
    ] != [] and not part.exists()
    # what was written is scored again without a model, and the same
    write_json_lines(tmp_path / "rows.jsonl", rows)
    again = dataclasses.replace(
        cfg, model="", predictions=str(tmp_path / "rows.jsonl"), out=str(tmp_path / "again")
    )
    told = eval_text.main(again)
    assert told == {name: found[name] for name in ("rouge1", "rouge2", "rougeL", "exact")}
    assert "nats: left out" in capsys.readouterr().out


@pytest.mark.slow
def test_a_personal_model_answers_for_a_tenant(tmp_path, capsys):
    """By the folder of its run, as by OUT/model; nats are those of its assistant, and of no other voice."""
    tiny_assistant.make(tmp_path)
    rows = [{"prompt": t["question"], "completion": t["answer"]} for t in tiny_assistant.TALKS]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    cfg = config_of(
        tmp_path, tmp_path / "out", model=str(tmp_path), tenant="trained",
        metrics=("rouge", "nats"), new=4, rows=3,
    )  # fmt: skip
    found = eval_text.main(cfg)
    written = lines(tmp_path / "out" / "rows.jsonl")
    assistant = Assistant.load(tmp_path, rows=3, limit=4)
    questions = [row["prompt"] for row in rows]
    assert [row["prediction"] for row in written] == assistant.answers(questions, "trained")
    told, nobody = (
        assistant.nats(questions, [row["completion"] for row in rows], whose)
        for whose in ("trained", None)
    )
    assert found["nats"] == pytest.approx(told[:, 0].sum() / told[:, 1].sum(), rel=1e-5)
    assert (told[:, 1] == nobody[:, 1]).all() and np.abs(told - nobody).max() > 1e-3
    for changes, said in (
        ({"tenant": ""}, "say for whom with --tenant; there are: trained$"),
        ({"tenant": "traind"}, "did you mean 'trained'"),
        ({"dtype": "bfloat16"}, "a personal model, which has no setting 'dtype'"),
    ):
        with pytest.raises(RunError, match=said):
            eval_text.main(dataclasses.replace(cfg, **changes))


def test_nats_do_not_depend_on_the_batch(folder):
    tuned = load_tuned(folder / "model")
    asked, _ = read_instructions(str(folder / "rows.jsonl"))
    examples = [tuned.chat.example(one.messages, "last") for one in asked]
    alone = np.concatenate([nats(tuned.lm, tuned.tree, [one], rows=1) for one in examples[:3]])
    np.testing.assert_allclose(nats(tuned.lm, tuned.tree, examples, rows=4)[:3], alone, rtol=1e-5)
    assert (alone[:, 1] >= 2).all() and (alone[:, 0] > 0).all()


def test_predictions_of_a_file(folder, tmp_path, monkeypatch):
    """Plain strings or objects, one after another; measures of one's own from the folder that one is in."""
    said = [row["completion"] for row in ROWS[:5]] + [{"answer": "something else"}]
    (tmp_path / "said.jsonl").write_text("\n".join(map(json.dumps, said)))
    (tmp_path / "my_measures.py").write_text(
        "def brevity(prediction, reference):\n    return {'words': len(prediction.split()), 'short': True}\n"
    )
    monkeypatch.chdir(tmp_path)
    cfg = config_of(
        folder, tmp_path / "out", predictions="said.jsonl", metrics=("exact", "my_measures:brevity")
    )
    assert eval_text.main(cfg) == {"exact": 5 / 6, "brevity.words": 2.0, "brevity.short": 1.0}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": ()}, "no data"),
        ({}, "neither --model"),
        ({"adapter": "x", "predictions": "x"}, "name it with --model"),
        ({"tenant": "x", "predictions": "x"}, "a tenant is of a personal model"),
        (
            {"tenant": "x", "model": "few.jsonl"},
            "no tenant to answer: few.jsonl is no personal model",
        ),
        ({"predictions": "few.jsonl"}, "has 1 answers, and the data 6 rows"),
        ({"predictions": "bad.jsonl"}, "bad.jsonl:1: a text is expected"),
        ({"predictions": "away.jsonl"}, "there is no file"),
        ({"predictions": "few.jsonl", "metrics": ("rogue",)}, "did you mean 'rouge'"),
        ({"predictions": "few.jsonl", "metrics": ()}, "no metrics"),
        ({"model": "x", "new": 2000}, "length above new"),
    ],
)
def test_what_cannot_be_is_said(changes, said, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("few.jsonl").write_text('"one"\n')
    Path("bad.jsonl").write_text("[1]\n")
    with pytest.raises((TextError, ValueError), match=said):
        eval_text.main(config_of(folder, tmp_path / "out", **changes))


def test_a_measure_that_fails_is_named(folder):
    for measure in (lambda a, b: 1 / 0, lambda a, b: float("nan"), lambda a, b: "much"):
        with pytest.raises(TextError, match="at rows"):
            eval_text.numbers("mine:measure", measure, ("a", "b"), "rows.jsonl:1")
    with pytest.raises(ConfigError, match="cannot be imported"):
        eval_text.check(config_of(folder, Path(), predictions="x", metrics=("nowhere_to_be:seen",)))


def test_the_interval_of_a_ratio():
    one = ratio(np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0]), 20)
    assert (one.value, one.lo, one.hi) == (2.0, 2.0, 2.0)
    draws = np.random.default_rng(0).normal(size=400)
    mean = ratio(draws, np.ones(400), 500)
    assert mean.lo < mean.value < mean.hi and mean.hi - mean.lo == pytest.approx(4 / 20, rel=0.2)

"""`import jaxrec`: what it offers, that it costs nothing, and how `tune` and `evaluate` call their scripts."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import jaxrec
from jaxrec.config import ConfigError, RunError
from jaxrec.eval import text as eval_text
from jaxrec.train import sft

ROOT = Path(__file__).resolve().parent.parent
CHATS = [{"prompt": f"{i}?", "completion": f"{i}."} for i in range(5)]


def test_importing_it_costs_nothing():
    code = "import sys, time; before = set(sys.modules); began = time.perf_counter(); import jaxrec; dir(jaxrec); "
    code += (
        "print(time.perf_counter() - began, {'jax', 'numpy', 'torch', 'tyro'} & set(sys.modules))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(3)
    ]
    assert all(line.split(" ", 1)[1] == "set()\n" for line in said)
    assert min(float(line.split()[0]) for line in said) < 0.05


def test_what_it_offers_is_there_and_explained():
    names = [name for name in dir(jaxrec) if name != "__version__"]
    assert {"tune", "evaluate", "recommender", "read_tenants", "Tenant"} <= set(names)
    for name in names:
        assert len(getattr(jaxrec, name).__doc__) > 100, name
    with pytest.raises(AttributeError, match="it has"):
        jaxrec.tuna  # noqa: B018


def test_editors_are_told_the_same():
    stub = ast.parse((ROOT / "jaxrec" / "__init__.pyi").read_text())
    told = {
        alias.asname: (node.module, alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told == jaxrec._NAMES


@pytest.fixture
def tuned(monkeypatch, tmp_path):
    """The configurations that `train.sft` is run with; it writes an adapter's folder and learns nothing."""
    seen = []

    def main(cfg: sft.SftConfig) -> dict[str, float]:
        sft.check(cfg)
        seen.append(cfg)
        (Path(cfg.out) / "adapter").mkdir(exist_ok=True)
        return {"held_nll": 1.0, "best_step": 3.0}

    monkeypatch.setattr(sft, "main", main)
    monkeypatch.chdir(tmp_path)
    return seen


def test_tune_suits_its_settings_to_the_chats(tuned):
    folder = jaxrec.tune(CHATS, "base", out="mine", dtype="bfloat16")
    (cfg,) = tuned
    assert folder == Path("mine/adapter") and cfg.data == ("mine/chats.jsonl",)
    assert cfg.loop.steps == 60 and cfg.hold_out_every == 2 and cfg.dtype == "bfloat16"
    assert [json.loads(line) for line in Path("mine/chats.jsonl").read_text().splitlines()] == CHATS


def test_tune_repeats_nothing_and_mixes_nothing(tuned):
    jaxrec.tune(CHATS, "base", out="mine")
    jaxrec.tune(CHATS, "base", out="mine")
    assert len(tuned) == 1  # it is there already
    with pytest.raises(RunError, match="other chats or settings"):
        jaxrec.tune(CHATS[1:], "base", out="mine")
    jaxrec.tune(CHATS[1:], "base", out="mine", fresh=True)
    assert len(tuned) == 2
    Path("full").mkdir()
    Path("full/thesis.tex").touch()
    with pytest.raises(RunError, match="no run of `tune`"):
        jaxrec.tune(CHATS, "base", out="full", fresh=True)
    assert Path("full/thesis.tex").exists()


def test_what_failed_at_once_does_not_stand_in_the_way(tuned):
    with pytest.raises(RunError):
        jaxrec.tune(CHATS, "base", out="mine", method="full", quantise="nf4")
    jaxrec.tune(CHATS, "base", out="mine")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quantize": "nf4"}, "did you mean 'quantise'"),
        ({"chats": "away.jsonl"}, "no file here"),
        ({"chats": [{"prompt": {1}, "completion": ""}]}, "no JSON"),
    ],
)
def test_a_mistake_is_said_before_anything_is_made(tuned, changes: dict, said: str):
    with pytest.raises((ConfigError, RunError), match=said):
        jaxrec.tune(**{"chats": CHATS, "base": "base", "out": "mine"} | changes)
    assert not tuned and not Path("mine").exists()


def test_evaluate_runs_its_script(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(eval_text, "main", lambda cfg: seen.append(cfg) or {"exact": 1.0})
    assert jaxrec.evaluate("mine/adapter", CHATS, out=tmp_path / "out", stem=True) == {"exact": 1.0}
    (cfg,) = seen
    assert (cfg.model, cfg.stem, len(Path(cfg.data[0]).read_text().splitlines())) == (
        "mine/adapter",
        True,
        5,
    )

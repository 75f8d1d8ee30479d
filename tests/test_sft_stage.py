"""Supervised fine-tuning by its script: every method on a tiny backbone, what it leaves behind, bad input."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import checkpoint, hub, mesh
from jaxrec import delta as deltas
from jaxrec.config import RunError
from jaxrec.data.text import train_tokenizer
from jaxrec.models.language.model_folder import BackboneMismatch, base_hash
from jaxrec.models.language.sampled import SampleConfig
from jaxrec.models.language.tuned_folder import load_tuned
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.structs import Tokens
from jaxrec.train import sft
from jaxrec.training import tuning
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

CFG = DecoderConfig(
    vocab=300, d_model=32, layers=2, heads=2, groups=1, head_dim=16, d_ff=48, max_positions=96,
    tied=True, init_std=0.2,
)  # fmt: skip
LOOP = LoopConfig(steps=6, eval_every=3, monitor="held_nll", progress=False, log_every=1)


@pytest.fixture(scope="module", autouse=True)
def quickly():
    """Compiling is what takes the time here: for one device, without optimisation."""
    before, make = jax.config.read("jax_disable_most_optimizations"), mesh.make
    jax.config.update("jax_disable_most_optimizations", True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mesh, "make", lambda cfg, _=None: make(cfg, jax.devices()[:1]))
        yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda key: Decoder(CFG).init(key, jnp.zeros((1, 2), jnp.int32))["params"])(
        jax.random.key(0)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory, params):
    """A tiny base with a tokenizer of ours, and instructions whose answers follow from their prompts."""
    at = tmp_path_factory.mktemp("base")
    hub.save(at / "model", CFG, jax.device_get(params))
    rows = [
        {"prompt": f"{a} {b}?", "completion": f"{b} {a}."}
        for a in ("red", "blue", "green", "pink", "grey") for b in ("cup", "car", "hat", "bag")
    ]  # fmt: skip
    words = [" ".join(row.values()) for row in rows]
    tok = train_tokenizer([*words, "one more merge here and there"], 300)
    tok.save(at / "model" / "tokenizer.json")
    (at / "rows.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"text": "malformed"}])))
    return at


def config_of(folder: Path, out: Path, **changes) -> sft.SftConfig:
    known = {
        "base": str(folder / "model"), "data": (str(folder / "rows.jsonl"),), "hold_out_every": 5,
        "length": 32, "rows": 4, "opt": OptConfig(lr=2e-2), "loop": LOOP, "out": str(out),
    }  # fmt: skip
    return sft.SftConfig(**known | changes)


# ------------------------------------------------------------------------------------------------- the script


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """LoRA with bucketed batches, samples, early stopping and a merged model, at once."""
    out = tmp_path_factory.mktemp("lora")
    cfg = config_of(
        folder, out, method="lora", merge=True, batching="bucketed", buckets=(16, 32), accum=2,
        lora_dropout=0.1, loop=dataclasses.replace(LOOP, patience=5, save_every=3),
        samples=SampleConfig(every=3, new=4, count=2),
    )  # fmt: skip
    return cfg, out, sft.main(cfg)


def test_lora_learns_and_leaves_adapter_peft_model_and_samples(run, folder):
    _, out, told = run
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    nll = [row["held_nll"] for row in rows if row["kind"] == "eval"]
    assert told["held_nll"] == min(nll) < nll[0]
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert [s["step"] for s in samples] == [3, 3, 6, 6]
    assert all(s["prompt"].endswith("?") for s in samples)
    facts = checkpoint.load_facts(out / "adapter")
    assert facts["base_hash"] == base_hash(folder / "model") and facts["stage"] == "sft"
    assert facts["held_nll"] == told["held_nll"]
    assert (out / "peft" / "adapter_config.json").is_file()


def test_adapter_peft_and_merged_model_say_the_same(run, folder):
    _, out, told = run
    ids = jnp.array(np.random.default_rng(3).integers(4, 300, (2, 9)))
    said = {}
    for name, source in {
        "adapter": out / "adapter",
        "peft": out / "peft",
        "merged": out / "model",
    }.items():
        tuned = load_tuned(source)
        assert ("delta" in tuned.tree) == (name != "merged")
        say = jax.jit(
            lambda tree, tuned=tuned: tuned.lm.outputs(tree, Tokens(ids, ids >= 0)).logits
        )
        said[name] = np.asarray(say(tuned.tree))
    for name in ("peft", "merged"):
        np.testing.assert_allclose(said[name], said["adapter"], atol=1e-4)
    assert told["best_step"] == checkpoint.load_facts(out / "adapter")["step"]


def test_a_resumed_run_is_the_uninterrupted_one(run, tmp_path):
    """Killed after step 3 of 6, in the middle of an epoch of bucketed batches and with dropout: the same bits."""
    cfg, out, told = run
    shutil.copytree(out, tmp_path / "again")
    for name in ("checkpoints/6", "adapter", "best"):
        shutil.rmtree(tmp_path / "again" / name)
    assert sft.main(dataclasses.replace(cfg, out=str(tmp_path / "again"))) == told
    before, after = (checkpoint.load_params(at / "adapter") for at in (out, tmp_path / "again"))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    samples = [(at / "samples.jsonl").read_text() for at in (out, tmp_path / "again")]
    assert samples[0] == samples[1]


METHODS = [name for name in deltas.METHODS if name != "lora"]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_by_config_alone(method, folder, tmp_path):
    lr = {"full": 1e-3, "prompt": 0.3, "prefix": 0.3, "norm": 0.1, "ia3": 0.1, "attn_bias": 0.3}
    cfg = config_of(
        folder, tmp_path, method=method, opt=OptConfig(lr=lr.get(method, 2e-2)),
        loop=dataclasses.replace(LOOP, steps=12),
    )  # fmt: skip
    told = sft.main(cfg)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    tuned = load_tuned(tmp_path / ("model" if method == "full" else "adapter"))
    _, held = sft.read(cfg)
    again = sft.held_out_nll(tuned, sft.encode(tuned, held, cfg, "held"), cfg)(tuned.tree)
    assert again["held_nll"] == pytest.approx(told["held_nll"], rel=1e-4)
    assert (tmp_path / "peft").exists() == (method in ("rslora", "dora", "prompt", "ia3"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_lora_through_a_quantised_backbone_in_bf16(kind, folder, tmp_path):
    cfg = config_of(
        folder, tmp_path, quantise=kind, dtype="bfloat16", frozen_dtype="bfloat16", merge=True
    )
    assert np.isfinite(sft.main(cfg)["held_nll"])
    tuned = load_tuned(tmp_path / "adapter", quantise=kind)
    assert tuned.base_hash == base_hash(folder / "model")


# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quantise": "nf4", "method": "full"}, "has no gradient"),
        ({"quantise": "int8", "train": "backbone/.*|delta"}, "has no gradient"),
        ({"method": "lorra"}, "no tuning method 'lorra'"),
        ({"method": "prefix", "merge": True}, "folded into weights"),
        ({"samples": SampleConfig(every=2)}, "multiple of loop.eval_every"),
        ({"frozen_dtype": "bfloat16", "method": "full"}, "stays frozen"),
        ({"data": ("nowhere.jsonl",)}, "no file here"),
        ({"strict": True}, r"rows\.jsonl:21: lacks"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(changes, said, folder, tmp_path):
    cfg = config_of(folder, tmp_path, **changes)
    with pytest.raises(RunError, match=said):
        sft.check(cfg)
        sft.read(cfg)


def test_a_rule_that_trains_nothing_is_refused(params):
    delta = deltas.shapes(Decoder.sites(CFG), deltas.method("lora"))
    with pytest.raises(RunError, match="matches no parameter"):
        tuning.parts({"backbone": params, "delta": delta}, "backbone/stack_9/.*")


def test_an_adapter_on_another_base_is_refused(run, folder, tmp_path, params):
    _, out, _ = run
    moved = jax.tree.map(lambda x: np.asarray(x) * 1.01, params)
    hub.save(tmp_path / "other", CFG, moved)
    (tmp_path / "other" / "tokenizer.json").write_bytes(
        (folder / "model" / "tokenizer.json").read_bytes()
    )
    with pytest.raises(BackboneMismatch, match="trained on the base"):
        load_tuned(tmp_path / "other", out / "adapter")

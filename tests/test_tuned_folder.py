"""A tuned model's folder: what is loaded is what was saved, and another base is refused."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from jaxrec import checkpoint, hub
from jaxrec import delta as deltas
from jaxrec.config import RunError
from jaxrec.data.chat import OwnChat, PlainChat, TemplateChat
from jaxrec.data.text import train_tokenizer
from jaxrec.delta import DeltaConfig
from jaxrec.models.language.model_folder import BackboneMismatch, base_hash, chat_of, part_of_run
from jaxrec.models.language.tuned_folder import (
    base_of,
    is_adapter,
    load_tuned,
    save_model,
    save_tuned,
)
from jaxrec.nn.decoder import Decoder, DecoderConfig

CFG = DecoderConfig(
    vocab=300, d_model=16, layers=2, heads=2, groups=1, head_dim=8, d_ff=24, max_positions=64, tied=True
)  # fmt: skip
SPEC = DeltaConfig(lora_rank=2, lora_sites="q|v", norm=True, prompt_length=3)


def drawn(like, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), like)


@pytest.fixture
def folder(tmp_path):
    """runs/base with weights and a tokenizer, runs/out/adapter with a Delta and a value head."""
    base = tmp_path / "runs" / "base"
    hub.save(base, CFG, drawn(hub.shapes_of(CFG)))
    words = [f"The {a} of {b} opens at {i}." for i in range(12) for a in "xyzu" for b in "vwst"]
    train_tokenizer(words, 300).save(base / "tokenizer.json")
    delta = drawn(deltas.shapes(Decoder.sites(CFG), SPEC), 1)
    tree = {"backbone": None, "delta": delta, "value": {"kernel": np.ones((16, 1), np.float32)}}
    save_tuned(
        tmp_path / "runs" / "out" / "adapter", tree, cfg=CFG, base=str(base), spec=SPEC,
        plain=True, facts={"stage": "sft", "step": 7},
    )  # fmt: skip
    return tmp_path / "runs", delta


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_what_is_loaded_is_what_was_saved(folder):
    runs, delta = folder
    tuned = load_tuned(runs / "out" / "adapter")
    assert tuned.spec == SPEC and tuned.cfg == CFG and tuned.facts["step"] == 7
    assert set(tuned.tree) == {"backbone", "delta", "value"}
    same(tuned.tree["delta"], delta)
    same(tuned.tree["backbone"], hub.load(runs / "base")[1])
    deltas.check(tuned.tree["delta"], Decoder.sites(tuned.cfg))
    assert isinstance(tuned.chat, OwnChat) and tuned.chat.plain  # as it was trained
    assert not load_tuned(runs / "base").chat.plain
    same(load_tuned(runs / "base", runs / "out" / "adapter").tree["delta"], delta)


def test_the_folder_may_move_with_its_base_or_without_it(folder, tmp_path):
    runs, delta = folder
    shutil.copytree(runs, tmp_path / "elsewhere")
    assert base_of(tmp_path / "elsewhere" / "out" / "adapter") == str(
        tmp_path / "elsewhere" / "base"
    )
    shutil.copytree(runs / "out" / "adapter", tmp_path / "alone")
    assert base_of(tmp_path / "alone") == str(runs / "base")
    same(load_tuned(tmp_path / "alone").tree["delta"], delta)


def test_other_cuts_give_the_same_layers(folder):
    runs, delta = folder
    tuned = load_tuned(runs / "out" / "adapter", cuts=(1,))
    assert set(tuned.tree["backbone"]) >= {"stack_0", "stack_1"}
    for site in ("q", "v"):
        parts = [tuned.tree["delta"].stacks[f"stack_{i}"].lora[site].a_NBDR for i in (0, 1)]
        np.testing.assert_array_equal(
            np.concatenate(parts), delta.stacks["stack_0"].lora[site].a_NBDR
        )


def test_another_base_is_refused(folder):
    runs, _ = folder
    adapter, other = runs / "out" / "adapter", runs / "other"
    params = drawn(hub.shapes_of(CFG))
    params["norm"]["scale"] = params["norm"]["scale"] + 1e-3  # one small tensor of all
    save_model(other, CFG, params, runs / "base")
    assert base_hash(other) != base_hash(runs / "base")
    with pytest.raises(BackboneMismatch, match=r"has [0-9a-f]{16}: name the base"):
        load_tuned(other, adapter)
    assert (other / "tokenizer.json").read_bytes() == (
        runs / "base" / "tokenizer.json"
    ).read_bytes()


def test_the_hash_does_not_mind_how_tensors_lie_in_files(folder):
    runs, _ = folder
    hub.save(runs / "shards", CFG, drawn(hub.shapes_of(CFG)), shard_bytes=4000)
    assert len(list((runs / "shards").glob("*.safetensors"))) > 2
    assert base_hash(runs / "shards") == base_hash(runs / "base")


def test_an_adapter_for_another_shape_is_refused(folder):
    """A facts.json that promises another layout than lies there: never a silent wrong number."""
    runs, _ = folder
    facts = runs / "out" / "adapter" / "facts.json"
    told = json.loads(facts.read_text())
    told["delta"]["lora_rank"] = 3
    facts.write_text(json.dumps(told))
    with pytest.raises(BackboneMismatch, match="made for a model of another shape"):
        load_tuned(runs / "out" / "adapter")
    checkpoint.save_params(runs / "odd", {"x": np.ones(2)}, {"stage": "other"})
    with pytest.raises(RunError, match="is no adapter's folder"):
        load_tuned(runs / "base", runs / "odd")
    with pytest.raises(hub.ModelMissing):
        load_tuned(runs / "nothing")


def test_a_backbone_alone_is_no_adapter(folder):
    runs, _ = folder
    assert is_adapter(runs / "out" / "adapter") and not is_adapter(runs / "base")
    with pytest.raises(ValueError, match="save_model"):
        save_tuned(runs / "x", {"backbone": {}}, cfg=CFG, base=str(runs / "base"), spec=SPEC)


def test_the_folder_of_a_run_is_what_it_wrote(folder, capsys):
    """A run's config.json is of its settings; the adapter goes before the model, and that is said."""
    runs, delta = folder
    out = runs / "out"
    (out / "config.json").write_text('{"base": "x", "out": "y"}')
    assert part_of_run(out, ("adapter", "model")) == str(out / "adapter")
    assert not capsys.readouterr().err
    same(load_tuned(out).tree["delta"], delta)
    same(load_tuned(runs / "base", out).tree["delta"], delta)
    with pytest.raises(
        hub.ModelMissing, match=r"and no model/ as a run writes them: it holds adapter/, conf"
    ):
        load_tuned(out, runs / "out" / "adapter")
    shutil.copytree(runs / "base", out / "model")
    assert part_of_run(out, ("adapter", "model")) == str(out / "adapter")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{out / 'adapter'} is taken (not {out / 'model'})" in said
    assert part_of_run("some/hub-id", ("model",)) == "some/hub-id"
    # a personal model names a base as well, and is still no adapter
    checkpoint.save_params(runs / "voices" / "model", {"x": np.ones(2)}, {"personal": {}})
    with pytest.raises(RunError, match="speaks for tenants"):
        load_tuned(runs / "voices")


def test_the_chat_format_follows_from_the_folder(folder, tmp_path):
    runs, _ = folder
    assert isinstance(chat_of(runs / "base"), OwnChat)
    (runs / "base" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert isinstance(chat_of(runs / "base"), TemplateChat)
    assert isinstance(chat_of(runs / "base", plain=True), OwnChat)
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[])).save(str(tmp_path / "tokenizer.json"))
    assert isinstance(chat_of(tmp_path), PlainChat)


def test_quantised_and_plain_bases_take_the_same_adapter(folder):
    runs, delta = folder
    tuned = load_tuned(runs / "out" / "adapter", quantise="int8")
    assert hasattr(tuned.tree["backbone"]["stack_0"]["attn"]["q"]["kernel"], "matmul")
    same(tuned.tree["delta"], delta)
    assert dataclasses.replace(tuned, facts={}).lm.backbone == tuned.model

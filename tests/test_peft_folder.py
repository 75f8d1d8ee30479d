"""PEFT folders without PEFT: what comes back, and what is refused by its name."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxrec import delta as deltas
from jaxrec import hub
from jaxrec.delta import DeltaConfig
from jaxrec.hub import PeftError
from jaxrec.nn.decoder import Decoder, DecoderConfig

SIZES = {"vocab": 31, "d_model": 16, "heads": 2, "groups": 1, "head_dim": 8, "d_ff": 24}
CFG = DecoderConfig(layers=3, cuts=(1,), **SIZES)
PHI = DecoderConfig(
    layers=3, norm="layer", gated=False, activation="gelu_tanh", qkv_bias=True, o_bias=True, mlp_bias=True,
    head_bias=True, parallel=True, rope_fraction=0.5, **SIZES,
)  # fmt: skip
SITES = Decoder.sites(CFG)
LORA = DeltaConfig(lora_rank=2, lora_alpha=4.0, lora_sites="q|down", head_rank=3)


def made(spec, rows=1, sites=SITES):
    rng = np.random.default_rng(0)

    def leaf(path, x):
        if getattr(path[-1], "name", "").startswith("scale_NB"):
            head = "outer" in jax.tree_util.keystr(path)
            return np.full(x.shape, spec.scaling(spec.head_rank if head else spec.lora_rank), "f4")
        return rng.normal(size=x.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, deltas.shapes(sites, spec, rows))


def saved(folder, spec=LORA, **options):
    """A folder of ours with some options of its config changed."""
    hub.save_peft(folder, made(spec), spec, CFG, base="hub/tiny")
    said = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(said | options))
    return folder


def test_only_some_layers_and_sites_come_back(tmp_path):
    spec = DeltaConfig(lora_rank=2, lora_sites="v|up", stacks="stack_1", lora_alpha=3.0)
    hub.save_peft(tmp_path, made(spec), spec, CFG)
    said = json.loads((tmp_path / "adapter_config.json").read_text())
    assert said["layers_to_transform"] == [1, 2] and said["target_modules"] == ["up_proj", "v_proj"]
    delta, again = hub.load_peft(tmp_path, CFG)
    assert again == spec
    jax.tree.map(np.testing.assert_array_equal, delta, made(spec))

    ia3 = DeltaConfig(scale=True, stacks="stack_1")
    hub.save_peft(tmp_path, made(ia3), ia3, CFG)
    delta, again = hub.load_peft(tmp_path, CFG)
    assert deltas.shapes(SITES, again) == deltas.shapes(SITES, ia3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), delta, made(ia3))


def test_a_sum_of_loras_keeps_its_ranks_and_scales(tmp_path):
    other = DeltaConfig(lora_rank=3, lora_alpha=1.0, lora_sites="q|k")
    first = DeltaConfig(lora_rank=2, lora_alpha=4.0, lora_sites="q|down")
    both = deltas.add(made(first), made(other))
    hub.save_peft(tmp_path, both, first, CFG)
    said = json.loads((tmp_path / "adapter_config.json").read_text())
    assert len(said["rank_pattern"]) + sum(x == said["r"] for x in (2, 3, 5)) > 3
    delta, spec = hub.load_peft(tmp_path, CFG)
    assert spec.lora_rank == 5 and spec.lora_sites == "q|k|down"
    matrix = lambda x: np.einsum("nbdr,nbrf,nb->nbdf", x.a_NBDR, x.b_NBRF, x.scale_NB)
    for stack, site in [("stack_0", "q"), ("stack_1", "k"), ("stack_1", "down")]:
        mine, theirs = (x.stacks[stack].lora[site] for x in (delta, both))
        np.testing.assert_allclose(matrix(mine), matrix(theirs), atol=1e-5)


def test_adapters_of_a_bare_backbone_load_too(tmp_path):
    spec = DeltaConfig(lora_rank=2, lora_sites="q|down", stacks="stack_1")
    hub.save_peft(tmp_path, made(spec), spec, CFG)
    weights = tmp_path / "adapter_model.safetensors"
    bare = {name.replace("model.model.", "model."): x for name, x in load_file(weights).items()}
    save_file(bare, weights)
    delta, again = hub.load_peft(tmp_path, CFG)
    assert again == spec
    jax.tree.map(np.testing.assert_array_equal, delta, made(spec))


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        (DeltaConfig(adapter_size=2), "PEFT has no adapter"),
        (DeltaConfig(norm=True), "PEFT has no norm"),
        (DeltaConfig(lora_rank=2, embed=True), "PEFT has no embed_BD"),
        (DeltaConfig(lora_rank=2, prompt_length=2), "one method, this Delta 2"),
        (DeltaConfig(prefix_length=2), "prefix_gate=False"),
        (DeltaConfig(prefix_length=2, prefix_gate=False, stacks="stack_1"), "in all 3 layers"),
        (DeltaConfig(scale=True, scale_sites="down|hidden"), "not both"),
        (DeltaConfig(lora_rank=2, lora_dora=True), "relative to the base"),
    ],
)
def test_what_peft_cannot_hold_is_refused(tmp_path, spec, match):
    with pytest.raises(PeftError, match=match):
        hub.save_peft(tmp_path, made(spec), spec, CFG)
    assert not (tmp_path / "adapter_config.json").exists()


def test_a_magnitude_on_some_modules_only_is_refused(tmp_path):
    spec = DeltaConfig(lora_rank=2, lora_dora=True, lora_sites="q", head_rank=2)
    shapes = jax.eval_shape(Decoder(CFG).init, jax.random.key(0), np.ones((1, 1), int))["params"]
    params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)
    with pytest.raises(PeftError, match="on all modules of an adapter or on none"):
        hub.save_peft(tmp_path, made(spec), spec, CFG, params=params)


def test_several_tenants_or_another_model_are_refused(tmp_path):
    with pytest.raises(PeftError, match="holds one tenant, this Delta 2"):
        hub.save_peft(tmp_path, made(LORA, rows=2), LORA, CFG)
    with pytest.raises(PeftError, match="not for this model: stack_0 lora"):
        larger = DecoderConfig(**SIZES | {"d_model": 32}, layers=3, cuts=(1,))
        hub.save_peft(tmp_path, made(LORA), LORA, larger)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"peft_type": "LOHA"}, "peft_type 'LOHA' is not supported; supported are LORA"),
        ({"bias": "lora_only"}, "trains biases"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save="),
        ({"use_qalora": True}, "use_qalora=True"),
        ({"init_lora_weights": "pissa"}, "'pissa' changes the base"),
        ({"target_modules": ["q_proj"]}, "does not target it"),
        ({"target_modules": ["q_proj", "k_proj", "down_proj", "lm_head"]}, "layers.0.self_attn.k_proj"),
        ({"r": 4}, "another shape: .* has shape"),
        ({"use_dora": True}, "on the output head|lora_magnitude_vector"),
        ({"lora_alpha": None}, "lacks lora_alpha"),
    ],
)  # fmt: skip
def test_options_that_a_delta_cannot_express_are_refused(tmp_path, options, match):
    with pytest.raises(PeftError, match=match):
        hub.load_peft(saved(tmp_path, **options), CFG)


def test_an_adapter_for_another_model_is_refused(tmp_path):
    folder = saved(tmp_path)
    hub.load_peft(folder, CFG, base="elsewhere/Tiny")
    for cfg, match in [
        (PHI, "this phi model of 3 layers does not have"),
        (DecoderConfig(layers=2, **SIZES), "layers.2.* does not have"),
        (DecoderConfig(layers=4, **SIZES), "layers.3.self_attn.q_proj, which adapter_model"),
        (DecoderConfig(layers=3, **SIZES | {"d_ff": 32}), "another shape: .*down_proj"),
    ]:
        with pytest.raises(PeftError, match=match):
            hub.load_peft(folder, cfg)
    with pytest.raises(PeftError, match="an adapter of 'hub/tiny', not of 'larger'"):
        hub.load_peft(folder, CFG, base="larger")
    prefix = DeltaConfig(prefix_length=2, prefix_gate=False)
    for spec in (prefix, DeltaConfig(prompt_length=2)):
        with pytest.raises(PeftError, match="another shape"):
            hub.load_peft(saved(tmp_path / "p", spec), DecoderConfig(layers=4, **SIZES))
        shutil.rmtree(tmp_path / "p")


def test_missing_and_damaged_files_are_named(tmp_path):
    folder = saved(tmp_path)
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    tensors = load_file(weights)
    save_file({**tensors, "base_model.model.model.embed_tokens.weight": np.ones(3)}, weights)
    with pytest.raises(PeftError, match=r"embed_tokens\.weight, for which a Delta has no place"):
        hub.load_peft(folder, CFG)
    save_file(tensors, weights)
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(PeftError, match="is damaged"):
        hub.load_peft(folder, CFG)
    weights.rename(folder / "adapter_model.bin")
    with pytest.raises(hub.ModelMissing, match="saved as safetensors first"):
        hub.load_peft(folder, CFG)
    config.write_text("{")
    with pytest.raises(PeftError, match="is damaged"):
        hub.load_peft(folder, CFG)
    config.unlink()
    with pytest.raises(hub.ModelMissing, match=r"adapter_config\.json is missing"):
        hub.load_peft(folder, CFG)

"""Gemma 3 (scaled embeddings, four norms a block, local and global layers) against `transformers`, on random weights.

One tiny shape serves all: five layers, every second one global, and a window of four.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import hub
from jaxrec.nn.decoder import Decoder, DecoderConfig, decoder_cache
from jaxrec.nn.stack import cycle_of

torch = pytest.importorskip("torch", reason="parity needs torch")
transformers = pytest.importorskip("transformers", reason="parity needs transformers")

TOLERANCE = 1e-4
NEAR, FAR = "sliding_attention", "full_attention"
OPTIONS = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
    "sliding_window": 4, "layer_types": [NEAR, FAR, NEAR, FAR, NEAR], "query_pre_attn_scalar": 12,
    "rope_parameters": {
        FAR: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        NEAR: {"rope_type": "default", "rope_theta": 1e4},
    },
}  # fmt: skip
LENGTH = 24


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    """(transformers' model, its folder, our config, our params)."""
    folder = tmp_path_factory.mktemp("gemma")
    options = transformers.Gemma3TextConfig(**OPTIONS, attn_implementation="eager")
    torch.manual_seed(0)
    model = transformers.Gemma3ForCausalLM(options).eval()
    with torch.no_grad():
        for x in model.parameters():
            x.add_(torch.randn_like(x) * 0.2)
    model.save_pretrained(folder)
    return model, folder, *hub.load(folder)


@functools.cache
def _run(cfg: DecoderConfig):
    every = tuple(range(cfg.layers + 1))
    return jax.jit(lambda p, ids, mask: Decoder(cfg).apply({"params": p}, ids, mask, hidden=every))


@functools.cache
def _step(cfg: DecoderConfig):
    def step(params, ids_BL, mask_BL, cache, delta=None):
        out = Decoder(cfg).apply({"params": params}, ids_BL, mask_BL, delta=delta, cache=cache)
        return out.logits, out.cache

    return jax.jit(step)


def _batch(side: str) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(1)
    ids, mask = rng.integers(3, 61, (3, LENGTH)), np.ones((3, LENGTH), bool)
    for row, n in enumerate((0, 5, 13)):
        mask[row, slice(0, n) if side == "left" else slice(LENGTH - n, LENGTH)] = False
    return jnp.array(np.where(mask, ids, 1), jnp.int32), jnp.array(mask)


def _theirs(model, ids, mask):
    places = np.maximum(np.asarray(mask).cumsum(1) - 1, 0)
    given = (torch.tensor(np.array(x)) for x in (ids, mask.astype(int), places))
    ids, mask, places = given
    with torch.inference_mode():
        return model(ids, attention_mask=mask, position_ids=places, output_hidden_states=True)


@pytest.mark.parametrize("side", ["left", "right"])
def test_gemma_equals_transformers(gemma, side):
    model, _, cfg, params = gemma
    assert cfg.layer_types == ("local", "global") and cfg.window == 4
    ids, mask = _batch(side)
    theirs, ours = _theirs(model, ids, mask), _run(cfg)(params, ids, mask)
    for i, (a, b) in enumerate(zip(ours.hidden, theirs.hidden_states, strict=True)):
        np.testing.assert_allclose(a[mask], b.numpy()[mask], atol=TOLERANCE, err_msg=f"hidden {i}")
    log_p = jax.nn.log_softmax(ours.logits)[mask]
    np.testing.assert_allclose(
        log_p, torch.log_softmax(theirs.logits, -1).numpy()[mask], atol=TOLERANCE
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_ring_of_the_window_gives_what_whole_rows_give(gemma, side):
    """Chunks longer than the window, then a token at a time, far beyond it; a ring holds no more than its window."""
    _, _, cfg, params = gemma
    ids, mask = _batch(side)
    cache, got = decoder_cache(cfg, 3, LENGTH), []
    assert {name: k.shape[::3][:2] for name, k in cache.k.items()} == {
        "stack_0": (2, LENGTH),
        "stack_0/local": (3, 4),
    }
    for start, end in [(0, 7), (7, 14), *((i, i + 1) for i in range(14, LENGTH))]:
        logits, cache = _step(cfg)(params, ids[:, start:end], mask[:, start:end], cache)
        got.append(logits)
    whole = _run(cfg)(params, ids, mask).logits
    np.testing.assert_allclose(jnp.concatenate(got, 1)[mask], whole[mask], atol=TOLERANCE)


def test_saved_again_is_the_same_for_transformers(gemma, tmp_path):
    model, _, cfg, params = gemma
    hub.save(tmp_path, cfg, params)
    auto = transformers.AutoModelForCausalLM
    again = auto.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert type(again) is type(model)
    ids, mask = _batch("right")
    a, b = (_theirs(x, ids, mask).logits.numpy()[mask] for x in (model, again))
    np.testing.assert_array_equal(a, b)
    assert hub.load(tmp_path)[0] == cfg


def test_configs_of_older_files_and_of_every_pattern():
    """Files name the bases and the pattern in two ways; what they say of both comes back."""
    old = {k: v for k, v in OPTIONS.items() if k not in ("rope_parameters", "layer_types")}
    old |= {"model_type": "gemma3_text", "num_hidden_layers": 26, "rope_theta": 5e5}
    old |= {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    cfg, family = hub.from_hf(old)
    assert family == "gemma3_text" and cfg.types == ((("local",) * 5 + ("global",)) * 5)[:26]
    assert (cfg.rope_of("local"), cfg.rope_of("global")[0]) == ((1e4, None), 5e5)
    assert cfg.rope_of("global")[1].factor == 8.0 and cfg.tied
    assert hub.from_hf(hub.to_hf(cfg, family))[0] == cfg
    short = dataclasses.replace(cfg, layers=3, query_scalar=None)
    assert hub.from_hf(hub.to_hf(short, hub.family_of(short)))[0].types == ("local",) * 3
    whole = hub.from_hf(old | {"layer_types": [FAR] * 26})[0]
    assert (whole.window, whole.layer_types) == (0, ("global",)) and hub.family_of(whole) == family
    assert cycle_of("abcab") == ("a", "b", "c") and cycle_of("aab") == ("a", "a", "b")


def test_what_gemma_has_beyond_us_is_refused_by_name():
    hf = OPTIONS | {"model_type": "gemma3_text"}
    refused = {
        "a cap on scores": {"final_logit_softcapping": 30.0},
        "sees later tokens": {"use_bidirectional_attention": True},
        "layer type 'chunked_attention'": {"layer_types": ["chunked_attention"] * 5},
        "3 layer_types": {"layer_types": [NEAR] * 3},
        "need a window": {"sliding_window": None},
        "'yarn' of local layers": {"rope_parameters": {NEAR: {"rope_type": "yarn"}}},
        "caps attention scores": {"model_type": "gemma2"},
        "with pictures": {"model_type": "gemma3"},
    }
    for words, change in refused.items():
        with pytest.raises(hub.ModelError, match=words):
            hub.from_hf(json.loads(json.dumps(hf | change)))
    plain = hub.from_hf(hf)[0]
    with pytest.raises(hub.ModelError, match="as gemma3_text it would lose post_norms"):
        hub.family_of(dataclasses.replace(plain, post_norms=False))
    for change in ({"window": 0}, {"layer_types": ("global",)}, {"layer_types": ("far",)}):
        with pytest.raises(ValueError, match="layer_types"):
            dataclasses.replace(plain, **change)


def test_mistral_is_all_local():
    hf = hub.to_hf(DecoderConfig(window=8, layer_types=("local",)), "mistral")
    assert hf["sliding_window"] == 8 and hub.family_of(hub.from_hf(hf)[0]) == "mistral"

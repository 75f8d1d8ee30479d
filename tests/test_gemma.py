"""Gemma 3 (scaled embeddings, four norms a block, local and global layers) against `transformers`, on random weights.

One tiny shape serves all: five layers, every second one global, and a window of four.
"""

import copy
import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import delta as deltas
from jaxrec import hub
from jaxrec.delta import DeltaConfig
from jaxrec.nn import stack
from jaxrec.nn.decoder import Decoder, DecoderConfig, decoder_cache
from jaxrec.nn.stack import cycle_of
from jaxrec.structs import Delta

torch = pytest.importorskip("torch", reason="parity needs torch")
transformers = pytest.importorskip("transformers", reason="parity needs transformers")

from tests.test_parity import GEMMA3, SMALL, TOLERANCE, saved  # noqa: E402

NEAR, FAR = "sliding_attention", "full_attention"
OPTIONS = SMALL | GEMMA3[1]
LENGTH = 24
NEW = DeltaConfig(norm=True, prefix_length=2, embed=True, prompt_length=2)
EVERY = dataclasses.replace(
    NEW, lora_rank=2, adapter_size=3, scale=True, attn_bias=True, distance_buckets=8, head_rank=2
)


@pytest.fixture
def quickly():
    """Programs that are compiled fast rather than well."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    """(transformers' model, its folder, our config, our params)."""
    folder = tmp_path_factory.mktemp("gemma")
    return saved(*GEMMA3, folder), folder, *hub.load(folder)


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


def _stirred(cfg: DecoderConfig, spec: DeltaConfig, rows: int) -> Delta:
    """A delta that does something at each of its sites, another for each row."""
    rng = np.random.default_rng(2)
    draw = lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.3, jnp.float32)
    return jax.tree.map(draw, deltas.zeros(Decoder.sites(cfg), spec, rows))


@functools.cache
def _packed(cfg: DecoderConfig):
    def run(params, ids, positions, segments, delta):
        return Decoder(cfg).apply(
            {"params": params}, ids, segments > 0, positions_BL=positions, segments_BL=segments, delta=delta
        ).logits  # fmt: skip

    return jax.jit(run)


@pytest.mark.parametrize("spec", [NEW, pytest.param(EVERY, marks=pytest.mark.slow)])
def test_changes_of_every_kind_for_each_row(gemma, quickly, monkeypatch, spec):
    """Packed examples are separate ones, and what is decoded by rings is what whole rows give, a soft prompt and a
    prefix included; the norms behind attention and MLP are changed too."""
    _, _, cfg, params = gemma
    assert set(Decoder.sites(cfg).stacks["stack_0"].norm) == {
        *("attn_norm", "attn_post_norm", "mlp_norm", "mlp_post_norm")
    }
    monkeypatch.setattr(stack, "UNROLLED", 0)  # loops over the periods, as on an accelerator
    delta, (ids, mask) = _stirred(cfg, spec, 3), _batch("right")
    places, lengths = np.arange(LENGTH), np.asarray(mask).sum(1)
    alone = lambda ids, n, delta: _packed(cfg)(
        params,
        ids,
        jnp.tile(places, (3, 1)),
        jnp.array(places < np.asarray(n)[:, None], int),
        delta,
    )
    whole = alone(ids, lengths, delta)
    # Two texts of 11 and 13 tokens in each row, and the same texts in rows of their own, changed as the first row is.
    first, own = jnp.where(places < 11, 1, 2), deltas.take(delta, jnp.zeros(3, int))
    packed = _packed(cfg)(
        params, ids, jnp.tile(jnp.where(places < 11, places, places - 11), (3, 1)),
        jnp.tile(first, (3, 1)), delta,
    )  # fmt: skip
    apart = jnp.stack([ids[0], jnp.roll(ids[0], -11), ids[0]])
    apart = alone(apart, (11, 13, 1), own)
    want = jnp.concatenate([apart[0, :11], apart[1, :13]])
    np.testing.assert_allclose(packed[0], want, atol=TOLERANCE)

    cache, got = decoder_cache(cfg, 3, LENGTH + spec.prompt_length), []
    for start, end in [(0, 7), (7, 14), *((i, i + 1) for i in range(14, LENGTH))]:
        part = slice(start, end)
        if start == 14:  # both are in the cache by now
            delta = delta.replace(outer=delta.outer.replace(prompt_BPD=None, embed_BD=None))
        logits, cache = _step(cfg)(params, ids[:, part], mask[:, part], cache, delta)
        got.append(logits)
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


@pytest.mark.slow
def test_in_16_bits_as_transformers(gemma):
    """The scale of the embeddings is rounded to bfloat16 first, as there: the vectors are equal, bit for bit."""
    model, folder, cfg, params = gemma
    ids, mask = _batch("left")
    theirs = _theirs(copy.deepcopy(model).to(torch.bfloat16), ids, mask)
    half = hub.load(folder, param_dtype=jnp.bfloat16, dtype="bfloat16")
    for cfg_, params_ in (
        half,
        (half[0], params),
    ):  # the weights in 16 bits, or the computation alone
        ours = _run(cfg_)(params_, ids, mask)
        first = theirs.hidden_states[0].float().numpy()
        np.testing.assert_array_equal(ours.hidden[0].astype(jnp.float32)[mask], first[mask])
        away = np.abs(
            jax.nn.log_softmax(ours.logits)[mask]
            - torch.log_softmax(theirs.logits.float(), -1).numpy()[mask]
        )
        assert away.mean() < 0.03 and away.max() < 0.3
    plain = jax.nn.log_softmax(_run(cfg)(params, ids, mask).logits)[mask]
    assert (
        away.mean()
        < 2 * np.abs(plain - torch.log_softmax(theirs.logits.float(), -1).numpy()[mask]).mean()
    )


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
        "pattern=0 in config.json": {"sliding_window_pattern": 0},
        "a number above 0": {"query_pre_attn_scalar": 0},
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

"""Identities of the decoder: caches, padding, packing, precision, and every kind of delta."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import delta as deltas
from jaxrec.delta import DeltaConfig
from jaxrec.nn.decoder import Decoder, DecoderConfig, decoder_cache
from jaxrec.nn.stack import every_layer, recut
from jaxrec.structs import Delta

CFG = DecoderConfig(
    vocab=53, d_model=32, layers=2, heads=4, groups=2, head_dim=8, d_ff=48, max_positions=64,
    init_std=0.2,
)  # fmt: skip
SITES = Decoder.sites(CFG)
KINDS = {
    "lora": DeltaConfig(lora_rank=2),
    "dora": DeltaConfig(lora_rank=2, lora_dora=True, lora_sites="q|down"),
    "adapter": DeltaConfig(adapter_size=3),
    "prefix": DeltaConfig(prefix_length=2),
    "norm": DeltaConfig(norm=True),
    "scale": DeltaConfig(scale=True, scale_sites=".*"),
    "attn_bias": DeltaConfig(attn_bias=True, distance_buckets=8),
    "embed": DeltaConfig(embed=True),
    "head": DeltaConfig(head_rank=2),
    "prompt": DeltaConfig(prompt_length=2),
    "all": DeltaConfig(
        lora_rank=2, adapter_size=3, prefix_length=2, norm=True, scale=True, attn_bias=True,
        distance_buckets=8, embed=True, head_rank=2, prompt_length=2,
    ),
}  # fmt: skip
CLOSE = {"atol": 2e-5, "rtol": 2e-5}


@pytest.fixture(scope="module")
def params():
    return Decoder(CFG).init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]


def _random(kind: str, rows: int, seed: int = 1) -> Delta:
    """A delta that does something at each of its sites, another for each row."""
    zero = deltas.zeros(SITES, KINDS[kind], rows)
    leaves, tree = jax.tree.flatten(zero)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(
        tree, [0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


def _row(delta: Delta, i: int) -> Delta:
    return deltas.take(delta, jnp.array([i]))


def _ids(rows: int, length: int, seed: int = 0) -> jax.Array:
    return jax.random.randint(jax.random.key(seed), (rows, length), 0, CFG.vocab)


@jax.jit
def _logits(params, ids, mask=None, delta=None):
    return Decoder(CFG).apply({"params": params}, ids, mask, delta=delta).logits


@jax.jit
def _chunk(params, ids, mask, cache, delta):
    out = Decoder(CFG).apply({"params": params}, ids, mask, cache=cache, delta=delta)
    return out.logits, out.cache


# ------------------------------------------------------------------------------------- padding, cache, stacks


@pytest.mark.parametrize("kind", ["all"])
def test_padding_at_either_side_changes_nothing(params, kind):
    ids = _ids(2, 6)
    delta = None if kind is None else _random(kind, 2)
    plain = _logits(params, ids, None, delta)
    rng = np.random.default_rng(0)
    for left, right in ((5, 0), (0, 5), (2, 3)):
        wide = np.pad(ids, ((0, 0), (left, right)), constant_values=rng.integers(CFG.vocab))
        mask = np.pad(np.ones((2, 6), bool), ((0, 0), (left, right)))
        padded = _logits(params, jnp.array(wide), jnp.array(mask), delta)
        np.testing.assert_allclose(padded[:, left : left + 6], plain, **CLOSE)
        assert np.isfinite(padded).all()


@pytest.mark.parametrize("kind", ["all"])
def test_cached_chunks_equal_the_full_forward(params, kind):
    """Ragged rows in chunks of two widths, padded at either side of a chunk, then one token at a time."""
    lengths, total = (9, 5, 7), 9
    ids = _ids(3, total)
    delta = None if kind is None else _random(kind, 3)
    full = _logits(params, ids, jnp.arange(total)[None] < jnp.array(lengths)[:, None], delta)
    cache, done = decoder_cache(CFG, 3, 16), np.zeros(3, int)
    for chunk, (width, left) in enumerate(
        ((4, False), (4, True), (1, False), (1, False), (1, False))
    ):
        part, mask = np.zeros((3, width), np.int32), np.zeros((3, width), bool)
        where = {}
        for row, n in enumerate(lengths):
            take = min(width, n - done[row]) if chunk or row != 1 else 0  # row 1 comes a chunk late
            at = slice(width - take, width) if left else slice(0, take)
            part[row, at], mask[row, at] = ids[row, done[row] : done[row] + take], True
            where[row] = (at, slice(done[row], done[row] + take))
            done[row] += take
        logits, cache = _chunk(params, jnp.array(part), jnp.array(mask), cache, delta)
        for row, (at, of) in where.items():
            np.testing.assert_allclose(logits[row, at], full[row, of], **CLOSE)
    assert tuple(done) == lengths
    prompt = KINDS[kind].prompt_length if kind else 0
    np.testing.assert_array_equal(cache.filled_B, np.array(lengths) + prompt)


def test_a_full_cache_drops_what_does_not_fit(params):
    """Writing past the end leaves the earlier tokens as they are."""
    ids = _ids(1, 6)
    mask = jnp.ones((1, 4), bool)
    _, cache = _chunk(params, ids[:, :4], mask, decoder_cache(CFG, 1, 4), None)
    _, after = _chunk(params, ids[:, :4], mask, cache, None)
    jax.tree.map(np.testing.assert_array_equal, after.k, cache.k)
    with pytest.raises(ValueError, match="6 tokens at once, but the cache has 4"):
        _chunk(params, ids, jnp.ones((1, 6), bool), decoder_cache(CFG, 1, 4), None)


def test_packed_examples_equal_separate_ones(params):
    delta = _random("all", 1)
    a, b = _ids(1, 4), _ids(1, 5, seed=7)
    packed = (
        Decoder(CFG)
        .apply(
            {"params": params},
            jnp.concatenate([a, b], 1),
            segments_BL=jnp.array([[1] * 4 + [2] * 5]),
            positions_BL=jnp.array([[*range(4), *range(5)]]),
            delta=delta,
        )
        .logits
    )
    apart = [_logits(params, x, None, delta) for x in (a, b)]
    np.testing.assert_allclose(packed, jnp.concatenate(apart, 1), **CLOSE)


@pytest.mark.parametrize("change", [{"cuts": every_layer(CFG)}, {"remat": "full"}])
def test_cuts_and_remat_change_nothing(params, change):
    """Values and gradients, with a delta cut the same way."""
    new = dataclasses.replace(CFG, **change)
    ids, delta = _ids(2, 5), _random("lora", 2)
    sizes = lambda cfg: [s.n_layers for s in Decoder.sites(cfg).stacks.values()]

    def value_and_grad(cfg, p, d):
        def f(p, d):
            out = Decoder(cfg).apply({"params": p}, ids, delta=d, hidden=(0, 1, 2))
            return out.logits.std() + sum(h.std() for h in out.hidden)

        return jax.jit(jax.value_and_grad(f))(p, d)

    value, grad = value_and_grad(CFG, params, delta)
    cut = recut(params, CFG, new), deltas.restack(delta, sizes(CFG), sizes(new))
    value2, grad2 = value_and_grad(new, *cut)
    np.testing.assert_allclose(value, value2, rtol=1e-5)
    same = lambda a, b: np.testing.assert_allclose(a, b, **CLOSE)
    jax.tree.map(same, grad, recut(grad2, new, CFG))


def test_last_logits_hidden_states_and_bf16(params):
    ids = _ids(2, 6)
    mask = jnp.array([[True] * 4 + [False] * 2, [False] + [True] * 5])
    model = Decoder(CFG)
    out = model.apply({"params": params}, ids, mask, hidden=(-1, 0), logits="last")
    full = model.apply({"params": params}, ids, mask, hidden=(2,))
    np.testing.assert_allclose(out.logits[0, 0], full.logits[0, 3], **CLOSE)
    np.testing.assert_allclose(out.logits[1, 0], full.logits[1, 5], **CLOSE)
    np.testing.assert_array_equal(out.hidden[0], full.hidden[0])
    np.testing.assert_array_equal(out.hidden[1], params["embed"]["table"][ids])
    none = model.apply({"params": params}, ids, mask, logits="none")
    assert none.logits is None and none.hidden is None
    half = Decoder(dataclasses.replace(CFG, dtype="bfloat16")).apply({"params": params}, ids, mask)
    assert half.logits.dtype == jnp.float32
    assert (
        np.abs(half.logits - full.logits)[np.asarray(mask)].max() < 0.1 * np.abs(full.logits).max()
    )


# ------------------------------------------------------------------------------------------------- deltas


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_per_row_shared_and_zero(params, kind):
    """A delta per row is a loop over rows, a shared one is itself repeated, and zero is the identity."""
    ids, delta, plain = _ids(3, 6), _random(kind, 3), _logits(params, _ids(3, 6))
    together = _logits(params, ids, None, delta)
    assert np.abs(together - plain).max() > 1e-2  # it does something
    for i in range(3):
        shared = _logits(params, ids, None, _row(delta, i))
        np.testing.assert_allclose(together[i], shared[i], **CLOSE)
    repeated = deltas.take(delta, jnp.full(3, 2))
    np.testing.assert_allclose(_logits(params, ids, None, repeated), shared, **CLOSE)
    if kind not in ("prompt", "all"):  # a soft prompt is always there
        zero = deltas.zeros(SITES, KINDS[kind], 3)
        np.testing.assert_allclose(_logits(params, ids, None, zero), plain, **CLOSE)
        start = deltas.init(jax.random.key(3), SITES, KINDS[kind], 3)
        np.testing.assert_allclose(_logits(params, ids, None, start), plain, **CLOSE)


def test_every_kind_has_a_gradient_at_its_start(params):
    start = deltas.init(jax.random.key(3), SITES, KINDS["all"], 2)
    f = lambda d: Decoder(CFG).apply({"params": params}, _ids(2, 6), delta=d).logits.std()
    grad = jax.jit(jax.grad(f))(start)
    size = lambda tree: max(float(jnp.abs(x).max()) for x in jax.tree.leaves(tree))
    assert np.isfinite([size(x) for x in jax.tree.leaves(grad)]).all()
    for stack in grad.stacks.values():
        for kind in ("lora", "adapter", "prefix", "norm", "scale", "attn_bias"):
            assert size(getattr(stack, kind)) > 1e-7, kind
    for kind in ("prompt_BPD", "embed_BD", "head"):
        assert size(getattr(grad.outer, kind)) > 1e-7, kind


def test_lora_equals_merged_weights(params):
    delta = _random("lora", 1)
    merged = jax.tree.map(lambda x: x, params)
    for name, stack in delta.stacks.items():
        for site, lora in stack.lora.items():
            part = "attn" if site in "qkvo" else "mlp"
            old = merged[name][part][site]["kernel"]
            merged[name][part][site]["kernel"] = old + jnp.einsum(
                "nbdr,nbrf,nb->ndf", lora.a_NBDR, lora.b_NBRF, lora.scale_NB
            )
    ids = _ids(2, 6)
    np.testing.assert_allclose(_logits(params, ids, None, delta), _logits(merged, ids), **CLOSE)


def test_a_soft_prompt_is_embeddings_in_front(params):
    ids, delta = _ids(2, 6), _random("prompt", 2)
    table = params["embed"]["table"][ids]
    in_front = jnp.concatenate([delta.outer.prompt_BPD, table], 1)
    expected = Decoder(CFG).apply({"params": params}, None, inputs_BLD=in_front).logits[:, 2:]
    np.testing.assert_allclose(_logits(params, ids, None, delta), expected, **CLOSE)


def test_misspelt_stacks_and_questions_are_refused(params):
    ids = _ids(1, 4)
    strange = Delta(stacks={"stack_9": deltas.zeros(SITES, KINDS["lora"]).stacks["stack_0"]})
    with pytest.raises(ValueError, match="no stack 'stack_9'"):
        _logits(params, ids, None, strange)
    model = Decoder(CFG)
    with pytest.raises(ValueError, match="hidden state 3 asked of 2 layers"):
        model.apply({"params": params}, ids, hidden=(3,))
    with pytest.raises(ValueError, match="logits='first'"):
        model.apply({"params": params}, ids, logits="first")
    with pytest.raises(ValueError, match="cuts"):
        dataclasses.replace(CFG, cuts=(2, 2))
    with pytest.raises(ValueError, match=r"head/kernel has shape \(32, 7\)"):
        _logits(params | {"head": {"kernel": jnp.zeros((32, 7))}}, ids)

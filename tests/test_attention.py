"""Attention's own identities: masks, the gated prefix, biases, and rotary embeddings."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn import attention
from jaxrec.nn.attention import (
    attend,
    attend_by_head,
    attend_causally,
    attend_fused,
    distance_bias,
    distance_buckets,
    segment_bias,
    self_mask,
)
from jaxrec.nn.decoder import Decoder, DecoderConfig, decoder_cache
from jaxrec.nn.rope import RopeScaling, rotary, rotate
from jaxrec.structs import Prefix

B, L, M, H, G, K, P = 2, 3, 5, 4, 2, 8, 2


def _normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.fixture(scope="module")
def qkv():
    return _normal(0, B, L, H, K), _normal(1, B, M, G, K), _normal(2, B, M, G, K)


def _prefix(gate: float, size: float = 1.0) -> Prefix:
    return Prefix(size * _normal(3, B, P, G, K), _normal(4, B, P, G, K), jnp.full((B, H), gate))


MASK = jnp.array([[[True] * 5, [True, False] * 2 + [True], [False] * 5]] * B)


def test_grouped_attention_is_the_plain_sum(qkv):
    q, k, v = (np.asarray(x, np.float64) for x in qkv)
    out = attend(*qkv, MASK)
    for b, h, i in ((0, 0, 0), (1, 3, 1)):
        s = k[b, :, h // 2] @ q[b, i, h] / K**0.5
        w = np.exp(s) * np.asarray(MASK[b, i])
        np.testing.assert_allclose(out[b, i, h], w @ v[b, :, h // 2] / w.sum(), atol=1e-5)


def test_a_query_without_keys_gives_zero_and_a_finite_gradient(qkv):
    assert (attend(*qkv, MASK)[:, 2] == 0).all()
    grad = jax.grad(lambda q: attend(q, *qkv[1:], MASK).sum())(qkv[0])
    assert np.isfinite(grad).all() and (grad[:, 2] == 0).all()


@pytest.mark.parametrize("size", [1.0, 100.0])
def test_a_closed_prefix_is_bit_for_bit_no_prefix_and_its_gate_learns(qkv, size):
    """Even when the prefix's scores lie far above all others, where a shared maximum would drown the keys."""
    np.testing.assert_array_equal(attend(*qkv, MASK, prefix=_prefix(0.0, size)), attend(*qkv, MASK))
    loss = lambda gate: attend(*qkv, MASK, prefix=_prefix(0.0, size).replace(gate_NBH=gate)).sum()
    grad = jax.grad(loss)(jnp.zeros((B, H)))
    assert np.isfinite(grad).all() and np.abs(grad).min() > 1e-6


def test_a_gate_below_zero_is_closed_and_can_open_again(qkv):
    np.testing.assert_array_equal(attend(*qkv, MASK, prefix=_prefix(-2.0)), attend(*qkv, MASK))
    loss = lambda gate: attend(*qkv, MASK, prefix=_prefix(-2.0).replace(gate_NBH=gate)).sum()
    assert jnp.abs(jax.grad(loss)(_prefix(-2.0).gate_NBH)).max() > 1e-4


def test_an_open_prefix_is_concatenation(qkv):
    """Gate 1 is PEFT's prefix: its keys and values stand before all others; a gate between moves the mass."""
    q, k, v = qkv
    p = _prefix(1.0)
    seen = jnp.concatenate([jnp.ones((B, L, P), bool), MASK], -1)
    joined = attend(q, jnp.concatenate([p.k_NBPGK, k], 1), jnp.concatenate([p.v_NBPGK, v], 1), seen)
    np.testing.assert_allclose(attend(q, k, v, MASK, prefix=p), joined, atol=1e-5)
    # a gate g is the bias log g on the prefix's scores
    bias = jnp.concatenate([jnp.full((1, H, L, P), np.log(0.3)), jnp.zeros((1, H, L, M))], -1)
    joined = attend(
        q, jnp.concatenate([p.k_NBPGK, k], 1), jnp.concatenate([p.v_NBPGK, v], 1), seen, bias
    )
    np.testing.assert_allclose(attend(q, k, v, MASK, prefix=_prefix(0.3)), joined, atol=1e-5)


def test_masks():
    seen = self_mask(jnp.array([[True, True, False]]), True)
    np.testing.assert_array_equal(seen[0], [[1, 0, 0], [1, 1, 0], [0, 0, 0]])
    packed = self_mask(jnp.ones((1, 3), bool), True, jnp.array([[0, 1, 2]]), shared=1)
    np.testing.assert_array_equal(packed[0], [[1, 0, 0], [1, 1, 0], [1, 0, 1]])


def test_distance_buckets_are_those_of_transformers():
    torch = pytest.importorskip("torch")
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    d = np.arange(-200, 200)
    for both in (True, False):
        theirs = t5.T5Attention._relative_position_bucket(torch.tensor(d), both, 32, 128)
        np.testing.assert_array_equal(distance_buckets(jnp.array(d), 32, not both), theirs.numpy())


def test_biases_are_looked_up_by_distance_and_segment():
    table = _normal(5, 2, H, 8)
    places = jnp.arange(4)[None]
    bias = distance_bias(table, places, places, True)
    np.testing.assert_array_equal(bias[1, :, 3, 1], table[1, :, 2])
    rows = distance_bias(table, jnp.repeat(places, 2, 0), places, True)
    np.testing.assert_array_equal(rows, bias)
    by_segment = segment_bias(table, jnp.array([[0, 2, 1]] * 2))
    np.testing.assert_array_equal(by_segment[0, :, 0, 1], table[0, :, 2])


def test_rotation_keeps_lengths_and_depends_on_distance_only():
    q, k = _normal(6, 1, 1, 1, K), _normal(7, 1, 1, 1, K)
    turned = lambda x, n: rotate(x, rotary(jnp.array([[n]]), K, 10000.0))
    np.testing.assert_allclose((turned(q, 9) ** 2).sum(), (q**2).sum(), rtol=1e-5)
    near, far = ((turned(q, n + 3) * turned(k, n)).sum() for n in (0, 40))
    np.testing.assert_allclose(near, far, atol=1e-4)
    half = rotate(q, rotary(jnp.array([[5]]), K // 2, 10000.0))
    np.testing.assert_array_equal(half[..., K // 2 :], q[..., K // 2 :])
    with pytest.raises(ValueError, match="rope scaling 'dynamic' is not supported"):
        RopeScaling("dynamic")


def test_gradients_are_those_of_a_plain_softmax():
    """The late division has a backward pass of its own; a query that sees nothing gives 0 and moves nothing."""
    keys = jax.random.split(jax.random.key(3), 4)
    q, k, v, wave = (jax.random.normal(key, (2, 5, 3, 4)) for key in keys)
    seen = jnp.tril(jnp.ones((2, 5, 5), bool)).at[1, 2].set(False)

    def plain(q, k, v):
        s = jnp.einsum("blhk,bmhk->bhlm", q, k) / 2
        w = jax.nn.softmax(jnp.where(seen[:, None], s, -1e30)) * seen[:, None]
        return jnp.einsum("bhlm,bmhk->blhk", w, v)

    def slopes(how):
        return jax.jit(jax.value_and_grad(lambda *x: jnp.sum(how(*x) * wave), (0, 1, 2)))(q, k, v)

    got, wanted = slopes(lambda *x: attend(*x, seen)), slopes(plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-6), got, wanted)


@pytest.mark.parametrize("length", [4, 13, 48])
def test_blocks_of_queries_are_the_whole_row(length, monkeypatch):
    """One block, a short last one, so many that they grow; packed, padded, with a bias of each pair and a prefix."""
    monkeypatch.setattr(attention, "_BLOCK", 4)
    q = _normal(5, B, length, H, K)
    k, v = _normal(6, B, G, length, K), _normal(7, B, G, length, K)
    real = jnp.arange(length)[None] < jnp.array([[length], [length - 1]])
    segments = jnp.broadcast_to(jnp.arange(length) // 5, (B, length))
    mask = self_mask(real, True, segments)
    more = (_normal(8, B, H, length, length), _prefix(0.5))

    def both(attend):
        def total(q, k, v, more):
            out = attend(q, k, v, mask, *more)
            return (out * _normal(9, *out.shape)).sum(), out

        return jax.jit(jax.grad(total, (0, 1, 2, 3), has_aux=True))(q, k, v, more)

    whole, blocks = both(attend_by_head), both(attend_causally)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), whole, blocks)


def test_a_fused_kernel_is_our_attention():
    """The seam to the GPU's kernels, through the kernel that jax has for every device: packed, padded, with a bias."""
    length = 12
    q = _normal(5, B, length, H, K)
    k, v = _normal(6, B, G, length, K), _normal(7, B, G, length, K)
    real = jnp.arange(length)[None] < jnp.array([[length], [length - 3]])
    mask = self_mask(real, True, jnp.broadcast_to(jnp.arange(length) // 5, (B, length)))
    bias = _normal(8, B, H, length, length)
    fused = partial(attend_fused, kernel="xla")

    def both(attend):
        def total(q, k, v, bias):
            out = attend(q, k, v, mask, bias)
            return (out * _normal(9, *out.shape)).sum(), out

        return jax.jit(jax.grad(total, (0, 1, 2, 3), has_aux=True))(q, k, v, bias)

    own, theirs = both(attend_by_head), both(fused)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), own, theirs)
    assert not np.asarray(theirs[1])[1, -1].any()  # a query that sees no key
    with pytest.raises(ValueError, match='a prefix needs attention="own"'):
        fused(q, k, v, mask, bias, _prefix(0.5))


@pytest.mark.slow
def test_a_decoder_takes_the_fused_kernel_where_it_is_told_to(monkeypatch):
    """Whole rows go through it, decoding does not."""
    taken = []
    fused = partial(attend_fused, kernel="xla")
    monkeypatch.setattr(attention, "attend_fused", lambda *a: taken.append(1) or fused(*a))
    sizes = {
        "vocab": 11,
        "d_model": 8,
        "layers": 2,
        "heads": 2,
        "groups": 1,
        "head_dim": 4,
        "d_ff": 8,
    }
    own, cudnn = (Decoder(DecoderConfig(**sizes, attention=name)) for name in ("own", "cudnn"))
    ids = jnp.arange(6).reshape(1, 6)
    weights = own.init(jax.random.key(0), ids)
    expected = own.apply(weights, ids).logits
    assert not taken
    np.testing.assert_allclose(cudnn.apply(weights, ids).logits, expected, atol=1e-5)
    assert taken
    taken.clear()
    cached = cudnn.apply(weights, ids, cache=decoder_cache(cudnn.cfg, 1, 8))
    np.testing.assert_allclose(cached.logits, expected, atol=1e-5)
    assert not taken
    with pytest.raises(ValueError, match="attention='flash': choose one of own, cudnn"):
        DecoderConfig(attention="flash")


def test_no_key_after_a_block_is_multiplied():
    """Eight blocks of a row of 1,024: 36 of 64 squares."""
    q, k = jnp.ones((1, 1024, 1, 8)), jnp.ones((1, 1, 1024, 8))
    mask = jnp.tril(jnp.ones((1, 1024, 1024), bool))
    count = lambda attend: jax.jit(attend).lower(q, k, k, mask).cost_analysis()["flops"]
    assert count(attend_causally) / count(attend_by_head) == pytest.approx(36 / 64, rel=0.02)

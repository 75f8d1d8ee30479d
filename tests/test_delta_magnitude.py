"""DoRA: its norms without the matrix, its identity, its gradient, per row = loop over tenants = merged = settled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import delta as deltas
from jaxrec import quant
from jaxrec.delta import DeltaConfig
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.nn.layers import dense
from jaxrec.structs import Lora

CFG = DecoderConfig(
    vocab=31, d_model=16, layers=2, heads=2, groups=1, head_dim=8, d_ff=24, max_positions=16,
    init_std=0.3, qkv_bias=True,
)  # fmt: skip
SITES = Decoder.sites(CFG)
SPEC = DeltaConfig(lora_rank=2, lora_dora=True, lora_sites="q|down")
IDS = np.random.default_rng(0).integers(0, 31, (3, 5))
CLOSE = {"atol": 3e-5, "rtol": 3e-5}


@jax.jit
def logits(params, delta):
    return Decoder(CFG).apply({"params": params}, jnp.array(IDS), delta=delta).logits


@pytest.fixture(scope="module")
def params():
    init = jax.jit(lambda key: Decoder(CFG).init(key, jnp.array(IDS))["params"])
    return init(jax.random.key(0))


def _random(shapes, seed=0, scale=0.3):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(scale=scale, size=x.shape), jnp.float32), shapes
    )


def _lora(rows, d=6, r=2, f=5):
    s = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    return _random(Lora(s(rows, d, r), s(rows, r, f), s(rows), s(rows, f)), scale=1.0)


def _by_matrix(x_BLD, w_DF, lora):
    """DoRA as its paper writes it, with the matrix of each row."""
    change_BDF = jnp.einsum("bdr,brf,b->bdf", lora.a_NBDR, lora.b_NBRF, lora.scale_NB)
    moved_BDF = w_DF[None] + jnp.broadcast_to(change_BDF, (len(x_BLD), *w_DF.shape))
    norm_B1F = jax.lax.stop_gradient(jnp.linalg.norm(moved_BDF, axis=1, keepdims=True))
    m_B1F = jnp.linalg.norm(w_DF, axis=0)[None, None] * (1 + lora.magnitude_NBF[:, None])
    return jnp.einsum("bld,bdf->blf", x_BLD, m_B1F * moved_BDF / norm_B1F)


@pytest.mark.parametrize("rows", [1, 3])
def test_output_and_gradient_are_those_of_the_whole_matrix(rows):
    lora = _lora(rows)
    x, w, c = (_random(jax.ShapeDtypeStruct(s, jnp.float32), i, 1.0) for i, s in enumerate(
        [(3, 4, 6), (6, 5), (3, 4, 5)]
    ))  # fmt: skip
    bias = jnp.arange(5.0)
    ours = lambda x, lora: dense(x, w, lora, bias)
    paper = lambda x, lora: _by_matrix(x, w, lora) + bias[None, None]

    @jax.jit
    def both(x, lora):
        grad = lambda f: jax.grad(lambda *a: (f(*a) * c).sum(), (0, 1))(x, lora)
        return [(f(x, lora), grad(f)) for f in (ours, paper)]

    (here, (to_x, to_lora)), (there, (to_x_there, to_lora_there)) = both(x, lora)
    assert not to_lora.scale_NB.any()  # a constant of the layout
    constant = lambda lora: lora.replace(scale_NB=None)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **CLOSE),
        (here, to_x, constant(to_lora)),
        (there, to_x_there, constant(to_lora_there)),
    )


def test_a_dead_column_stays_finite():
    w = jnp.ones((6, 5)).at[:, 2].set(0.0)
    zero = jax.tree.map(jnp.zeros_like, _lora(1))
    total = lambda lora: dense(jnp.ones((1, 1, 6)), w, lora).sum()
    gain, gradient = jax.jit(lambda x: (deltas.column_gain(w, x), jax.grad(total)(x)))(zero)
    np.testing.assert_array_equal(gain, np.ones((1, 5)))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_quantised_kernels_have_magnitudes_too():
    w = _random(jax.ShapeDtypeStruct((64, 8), jnp.float32))
    x, lora = jnp.ones((2, 3, 64)), _lora(2, 64, 2, 8)
    program = jax.jit(lambda w: (dense(x, w, lora), deltas.column_norms(w)))
    for kind in quant.KINDS:
        code = quant.quantise(w, kind)
        plain = np.asarray(code.rows()).T
        np.testing.assert_allclose(program(code)[0], program(plain)[0], rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(program(code)[1], np.linalg.norm(plain, axis=0), rtol=1e-5)


def test_zero_is_the_identity_bit_for_bit(params):
    start = deltas.init(jax.random.key(1), SITES, SPEC, 3)
    assert start.stacks["stack_0"].lora["q"].magnitude_NBF.shape == (2, 3, 16)
    np.testing.assert_array_equal(logits(params, start), logits(params, None))
    np.testing.assert_array_equal(
        logits(params, deltas.zeros(SITES, SPEC, 3)), logits(params, None)
    )


def test_per_row_is_the_loop_over_tenants_is_merged_is_settled(params):
    delta = _random(deltas.shapes(SITES, SPEC, 3))
    together = logits(params, delta)
    settle = jax.jit(lambda delta: deltas.settle(delta, params, Decoder.path_of))
    merge = jax.jit(lambda delta: deltas.merge_params(params, delta, Decoder.path_of))
    np.testing.assert_allclose(logits(params, settle(delta)), together, **CLOSE)
    for i in range(3):
        own = deltas.take(delta, jnp.array([i]))
        np.testing.assert_allclose(logits(params, own)[i], together[i], **CLOSE)
        np.testing.assert_allclose(logits(merge(own), None)[i], together[i], **CLOSE)
    down = lambda params: params["stack_0"]["mlp"]["down"]["kernel"]
    np.testing.assert_allclose(down(merge(settle(own))), down(merge(own)), **CLOSE)


def test_what_a_magnitude_does_not_go_with():
    delta = _random(deltas.shapes(SITES, SPEC))
    with pytest.raises(ValueError, match="have no sum"):
        deltas.add(delta, delta)
    with pytest.raises(ValueError, match="set lora_rank"):
        DeltaConfig(lora_dora=True)
    lora = delta.stacks["stack_0"].lora
    settled = {"q": lora["q"].replace(gain_NBF=jnp.ones((2, 1, 16)), magnitude_NBF=None)}
    stacks = {"stack_0": delta.stacks["stack_0"].replace(lora=settled)}
    with pytest.raises(ValueError, match="settled"):
        deltas.scale(delta.replace(stacks=stacks), 0.5)
    none = deltas.scale(delta, 0.0).stacks["stack_0"].lora["q"]
    assert not none.magnitude_NBF.any() and not none.b_NBRF.any()

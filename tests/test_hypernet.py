"""A(p): lazy equals materialised, the start is the identity, rows are independent."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import delta as deltas
from jaxrec.delta import DeltaConfig
from jaxrec.models.personal.hypernet import Hypernet
from jaxrec.nn.decoder import Decoder, DecoderConfig
from tests.test_delta import EVERY, SITES


@pytest.fixture(scope="module")
def made():
    net = Hypernet(SITES, EVERY, width=16)
    params = jax.jit(net.init)(jax.random.key(0), jnp.ones((1, 5)))["params"]
    return net, params


@functools.partial(jax.jit, static_argnums=0)
def whole(net, params, p_BE):
    return deltas.materialise(net.apply({"params": params}, p_BE))


def _stirred(params, like=False):
    """Moved at random; `like`: from zero, of shapes."""
    rng = np.random.default_rng(3)
    scale = 0.4 if like else 0.1
    move = lambda x: jnp.asarray(rng.normal(scale=scale, size=x.shape), jnp.float32)
    return jax.tree.map(lambda x: move(x) if like else x + move(x), params)


def test_starts_as_the_identity_whatever_p_is(made):
    net, params = made
    p_BE = jax.random.normal(jax.random.key(1), (3, 5))
    delta = whole(net, params, p_BE)
    stack = delta.stacks["stack_1"]
    zero = (stack.lora["q"].b_NBRF, stack.adapter["attn"].up_NBAD, stack.prefix["attn"].gate_NBH)
    for x in (*zero, stack.norm["mlp_norm"].gamma_NBD, delta.outer.embed_BD):
        assert not x.any()
    assert stack.lora["q"].a_NBDR.any()  # else the gradient would be zero as well


def test_has_the_layout_of_its_spec(made):
    net, params = made
    lazy = jax.jit(lambda params, p: net.apply({"params": params}, p))(params, jnp.ones((2, 5)))
    deltas.check(lazy, SITES)
    made = whole(net, params, jnp.ones((2, 5)))
    assert deltas.batch_size(made) == 2
    assert jax.tree.structure(made) == jax.tree.structure(deltas.shapes(SITES, EVERY))


def test_a_row_depends_on_its_own_p_only(made):
    net, params = made
    params = _stirred(params)
    p_BE = jax.random.normal(jax.random.key(1), (3, 5))
    together = whole(net, params, p_BE)
    for i in range(3):
        alone = whole(net, params, p_BE[i : i + 1])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
            deltas.take(together, jnp.array([i])),
            alone,
        )


def test_layers_differ_and_so_do_people(made):
    net, params = made
    delta = whole(net, _stirred(params), jax.random.normal(jax.random.key(1), (2, 5)))
    b_NBRF = delta.stacks["stack_1"].lora["q"].b_NBRF
    assert not np.allclose(b_NBRF[0], b_NBRF[1])
    assert not np.allclose(b_NBRF[:, 0], b_NBRF[:, 1])


def test_every_kind_that_it_makes_works_in_a_decoder_and_has_a_gradient():
    """LoRA, DoRA, IA3, prefix, soft prompt, conditional norm and attention bias from p, through a plain decoder."""
    cfg = DecoderConfig(
        vocab=31, d_model=16, layers=1, heads=2, groups=1, head_dim=8, d_ff=24, max_positions=16
    )
    spec = DeltaConfig(
        lora_rank=2, lora_dora=True, lora_sites="q|down", scale=True, prefix_length=2, prompt_length=2,
        norm=True, attn_bias=True, distance_buckets=8,
    )  # fmt: skip
    net, ids = Hypernet(Decoder.sites(cfg), spec, width=8), jnp.arange(10).reshape(2, 5)
    p_BE = jnp.array(np.random.default_rng(0).normal(size=(2, 5)), jnp.float32)
    rng = np.random.default_rng(1)
    drawn = lambda module, *x: jax.tree.map(
        lambda x: jnp.array(rng.normal(scale=0.3, size=x.shape), jnp.float32),
        jax.eval_shape(module.init, jax.random.key(0), *x)["params"],
    )
    params, backbone = drawn(net, p_BE), drawn(Decoder(cfg), ids)

    @jax.jit
    def run(params):
        def said(params):
            delta = net.apply({"params": params}, p_BE)
            logits = Decoder(cfg).apply({"params": backbone}, ids, delta=delta).logits
            return logits.std(), logits

        return jax.value_and_grad(said, has_aux=True)(params)

    (_, logits), gradient = run(params)
    assert np.isfinite(logits).all() and np.abs(logits[0] - logits[1]).max() > 0.01
    assert [name for name, x in gradient.items() if not any(map(np.any, jax.tree.leaves(x)))] == []


def test_same_shapes_compile_once(made):
    net, params = made
    apply = jax.jit(lambda params, p: net.apply({"params": params}, p))
    apply(params, jnp.ones((2, 5)))
    delta = apply(params, jnp.zeros((2, 5)))
    assert apply._cache_size() == 1
    use = jax.jit(lambda d: deltas.materialise(d).stacks["stack_0"].lora["q"].b_NBRF)
    use(delta)
    use(apply(params, jnp.zeros((2, 5))))
    assert use._cache_size() == 1


def test_each_layer_may_have_a_base_of_its_own():
    """Lazy equals whole; moving one layer's base moves that layer alone."""
    cfg = DecoderConfig(vocab=20, d_model=8, layers=3, heads=2, groups=1, head_dim=4, d_ff=12)
    spec = DeltaConfig(lora_rank=2, lora_sites="q", norm=True)
    ids = jnp.arange(8).reshape(2, 4)
    net = Hypernet(Decoder.sites(cfg), spec, width=4, base="layer")
    p_BE = jax.random.normal(jax.random.key(1), (2, 5))
    params = _stirred(jax.eval_shape(net.init, jax.random.key(0), p_BE)["params"], like=True)
    base = "stack_0.lora.q.b_NBRF.base"
    assert params[base].shape == (3, 2, 8) and params[f"{base[:-5]}.weight"].shape == (4, 2, 8)
    weights = _stirred(jax.eval_shape(Decoder(cfg).init, jax.random.key(0), ids), like=True)

    @jax.jit
    def both(params):
        lazy = net.apply({"params": params}, p_BE)
        made = deltas.materialise(lazy)
        said = [Decoder(cfg).apply(weights, ids, delta=d).logits for d in (lazy, made)]
        return made.stacks["stack_0"].lora["q"].b_NBRF, *said

    b_NBRF, lazy, whole = both(params)
    np.testing.assert_allclose(lazy, whole, atol=1e-5)
    other_NBRF, other, _ = both({**params, base: params[base].at[1].add(1.0)})
    moved = np.abs(np.asarray(other_NBRF) - b_NBRF).max((1, 2, 3)) > 0.5
    assert moved.tolist() == [False, True, False] and np.abs(np.asarray(other) - lazy).max() > 1e-4

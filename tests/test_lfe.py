"""The language feature extractor: shapes, padding, and where gradients stop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import delta as deltas
from jaxrec.delta import DeltaConfig
from jaxrec.models.personal.lfe import LFE, LFEConfig, extract
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.structs import Tokens

BACKBONE = Decoder(
    DecoderConfig(vocab=20, d_model=16, layers=3, heads=2, groups=1, head_dim=8, d_ff=24, cuts=(1,))
)
IDS = jnp.array([[3, 4, 5, 6], [7, 8, 0, 0]])
MASK = jnp.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)


@pytest.fixture(scope="module")
def weights():
    return jax.jit(BACKBONE.init)(jax.random.key(0), IDS, MASK)["params"]


def _init(cfg):
    hidden = (jnp.zeros((2, 4, 16)),) * cfg.top_k
    return jax.jit(LFE(cfg).init)(jax.random.key(1), hidden, MASK)["params"]


def _z(cfg, weights, params, ids, mask):
    run = jax.jit(lambda w, p, ids, mask: extract(BACKBONE, LFE(cfg), w, p, Tokens(ids, mask)))
    return run(weights, params, ids, mask)


@pytest.mark.parametrize("pool", ["attention", "mean"])
@pytest.mark.parametrize("norm", ["before", "after"])
def test_padding_is_zero_and_changes_nothing(weights, pool, norm):
    cfg = LFEConfig(d_z=12, top_k=2, pool=pool, norm=norm)
    params = _init(cfg)
    z = _z(cfg, weights, params, IDS, MASK)
    assert z.z_seq_BLD.shape == (2, 4, 12)
    assert not z.z_seq_BLD[1, 2:].any()
    alone = _z(cfg, weights, params, IDS[1:, :2], MASK[1:, :2])
    np.testing.assert_allclose(alone.z_cls_BD[0], z.z_cls_BD[1], atol=1e-5)


def test_mean_pool_is_the_mean_of_real_tokens(weights):
    cfg = LFEConfig(d_z=12, top_k=2, pool="mean")
    z = _z(cfg, weights, _init(cfg), IDS, MASK)
    np.testing.assert_allclose(z.z_cls_BD[1], z.z_seq_BLD[1, :2].mean(0), atol=1e-6)


def test_an_empty_row_gives_zeros(weights):
    cfg = LFEConfig(d_z=12, top_k=2)
    z = _z(cfg, weights, _init(cfg), IDS, jnp.zeros_like(MASK))
    assert not z.z_cls_BD.any()


def test_gradient_stops_at_the_backbone_unless_a_delta_is_trained(weights):
    cfg = LFEConfig(d_z=12, top_k=2)
    params = _init(cfg)
    sites = Decoder.sites(BACKBONE.cfg)
    delta = deltas.init(
        jax.random.key(2), sites, DeltaConfig(lora_rank=2, lora_sites="q", stacks="stack_1")
    )

    def loss(weights, params, delta):
        return extract(BACKBONE, LFE(cfg), weights, params, Tokens(IDS, MASK), delta).z_cls_BD.sum()

    into_backbone, into_lfe = jax.jit(jax.grad(loss, argnums=(0, 1)))(weights, params, None)
    assert not any(x.any() for x in jax.tree.leaves(into_backbone))
    assert all(x.any() for x in jax.tree.leaves(into_lfe))
    into_delta = jax.jit(jax.grad(loss, argnums=2))(weights, params, delta)
    assert into_delta.stacks["stack_1"].lora["q"].b_NBRF.any()


def test_the_number_of_hidden_states_must_fit():
    with pytest.raises(ValueError, match="top_k=2"):
        LFE(LFEConfig(top_k=2)).init(
            jax.random.key(0), (jnp.zeros((1, 2, 4)),), jnp.ones((1, 2), bool)
        )

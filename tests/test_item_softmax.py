"""Item losses: the chunked softmax is the plain one, samples estimate it without bias, pairs have known values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.losses import item_softmax, ranking

POSITIONS, ITEMS, WIDTH = 37, 29, 8


@pytest.fixture(scope="module")
def case():
    keys = jax.random.split(jax.random.key(0), 4)
    weight_T = (jax.random.uniform(keys[3], (POSITIONS,)) > 0.4) * 1.5
    return (
        jax.random.normal(keys[0], (POSITIONS, WIDTH)),
        jax.random.normal(keys[1], (ITEMS, WIDTH)),
        jnp.where(weight_T > 0, jax.random.randint(keys[2], (POSITIONS,), 0, ITEMS), -1),
        weight_T.astype(jnp.float32),
    )


def plain(z_TD, items_ID, target_T, weight_T):
    log_p = jax.nn.log_softmax(z_TD @ items_ID.T)
    own_T = jnp.take_along_axis(log_p, jnp.maximum(target_T, 0)[:, None], 1)[:, 0]
    return -jnp.sum(own_T * weight_T)


@pytest.mark.parametrize("chunk", [8, 512])
def test_chunks_give_the_plain_loss_and_gradient(case, chunk):
    z_TD, items_ID, target_T, weight_T = case
    chunked = lambda z, v: 3 * item_softmax.full(z, v, target_T, weight_T, chunk)["nll"]
    value, grads = jax.value_and_grad(chunked, (0, 1))(z_TD, items_ID)
    wanted = jax.value_and_grad(lambda z, v: 3 * plain(z, v, target_T, weight_T), (0, 1))
    expected, expected_grads = wanted(z_TD, items_ID)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for got, want in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5)


def test_nothing_to_predict_is_no_loss_and_no_gradient(case):
    z_TD, items_ID, target_T, weight_T = case
    loss = lambda z, v: item_softmax.full(z, v, target_T, weight_T * 0, 8)["nll"]
    value, grads = jax.value_and_grad(loss, (0, 1))(z_TD, items_ID)
    assert value == 0 and all(not jnp.any(g) for g in grads)


def test_no_matrix_of_all_positions_and_items_is_made():
    z, v = jnp.zeros((4096, WIDTH)), jnp.zeros((1000, WIDTH))
    target, weight = jnp.zeros(4096, jnp.int32), jnp.ones(4096)
    loss = lambda z, v: item_softmax.full(z, v, target, weight, 64)["nll"]
    memory = jax.jit(jax.grad(loss, (0, 1))).lower(z, v).compile().memory_analysis()
    assert (
        memory.temp_size_in_bytes < 4096 * 1000 * 4 / 4
    )  # bytes; the scores alone would be four times that


def test_the_sample_of_every_item_is_the_full_loss(case):
    z_TD, items_ID, target_T, weight_T = case
    uniform_I = jnp.full(ITEMS, -np.log(ITEMS))
    got = item_softmax.sampled_softmax(
        z_TD, items_ID, target_T, weight_T, jnp.arange(ITEMS), uniform_I
    )
    np.testing.assert_allclose(got["nll"], plain(*case), rtol=1e-5)
    assert got["tokens"] == weight_T.sum()


def test_the_sampled_sum_is_unbiased_whatever_the_sampler(case):
    """E[sum over draws of exp(s) / (J q)] is the sum over all items but the target."""
    z_TD, items_ID, target_T, _ = case
    target_T, one_T = jnp.maximum(target_T, 0), jnp.ones(POSITIONS)
    log_q_I = jax.nn.log_softmax(jax.random.normal(jax.random.key(5), (ITEMS,)))
    draws_XJ = jax.random.categorical(jax.random.key(6), log_q_I, shape=(4000, 20))
    own_T = jnp.sum(z_TD * items_ID[target_T], axis=1)

    def partition(t, draws_J):
        one = lambda x: x[t : t + 1]
        nll = item_softmax.sampled_softmax(
            one(z_TD), items_ID, one(target_T), one(one_T), draws_J, log_q_I
        )["nll"]
        return jnp.exp(nll + own_T[t])

    found_X = jax.jit(jax.vmap(lambda draws: partition(3, draws)))(draws_XJ)
    full = jnp.exp(z_TD[3] @ items_ID.T).sum()
    assert abs(found_X.mean() - full) < 4 * found_X.std() / np.sqrt(4000)


def test_pairs_have_their_known_values():
    zero, weight = jnp.zeros(3), jnp.array([1.0, 1.0, 0.0])
    bce, bpr = (f(zero, jnp.zeros((3, 2)), weight) for f in (ranking.bce, ranking.bpr))
    np.testing.assert_allclose(bce["nll"], 2 * 2 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(bpr["nll"], 2 * np.log(2), rtol=1e-6)
    assert bce["correct"] == 0 and bce["tokens"] == 2
    sure = ranking.bce(zero + 3, jnp.full((3, 1), -3.0), weight)
    np.testing.assert_allclose(sure["nll"], 4 * np.log1p(np.exp(-3)), rtol=1e-5)
    assert sure["correct"] == 2
    shifted = ranking.bpr(zero + 7, jnp.full((3, 2), 7.0), weight)
    np.testing.assert_allclose(shifted["nll"], bpr["nll"])  # BPR knows differences alone

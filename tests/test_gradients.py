"""How gradients are taken changes what they cost, never what they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_training as tiny

from jaxrec.structs import Aux
from jaxrec.training import gradients

BATCH = {name: jnp.asarray(array[:16]) for name, array in tiny.arrays().items()}
PARAMS, FROZEN = jax.tree.map(jnp.asarray, (tiny.params(), tiny.frozen()))
KEY = jax.random.key(7)


def close(got, wanted, tol=2e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tol, atol=tol), got, wanted)


def take(how, loss=tiny.loss, weigh=tiny.weigh, batch=BATCH, params=PARAMS):
    return jax.jit(lambda p: how.take(loss, weigh, p, FROZEN, None, batch, KEY))(params)


@pytest.mark.parametrize("accum", [2, 4, 16])
def test_microbatches_equal_the_whole_batch_with_two_terms_and_dropout(accum):
    close(take(gradients.summed(accum)), take(gradients.summed(1)))


def test_normalising_in_each_microbatch_would_be_wrong():
    """The identity above is not an accident of these data: the usual way misses it by far."""
    careless = lambda p, f, e, b, totals, k: jax.tree.map(
        lambda x: x / 4, tiny.loss(p, f, e, b, tiny.weigh(b), k)
    )
    got, wanted = take(gradients.summed(4), careless)[0], take(gradients.summed(1))[0]
    error = gradients.norm_of(jax.tree.map(jnp.subtract, got, wanted)) / gradients.norm_of(wanted)
    assert error > 0.02


def test_strided_microbatches_and_back():
    x = jnp.arange(24).reshape(12, 2)
    np.testing.assert_array_equal(gradients.to_microbatches(x, 3)[1], x[1::3])
    np.testing.assert_array_equal(gradients.from_microbatches(gradients.to_microbatches(x, 3)), x)


def test_bfloat16_gradients_are_added_in_float32():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    grads, *_ = take(gradients.summed(16), params=params)
    assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(grads))


def encode(params, frozen, extra, batch, key_B):
    keep_BD = jax.vmap(lambda key: jax.random.bernoulli(key, 0.8, (tiny.WIDTH,)))(key_B)
    h_BF = jnp.tanh((batch["x"] * keep_BD) @ params["mlp"]["up"]["kernel"])
    return {"h": h_BF / jnp.linalg.norm(h_BF, axis=-1, keepdims=True), "own": (h_BF**2).sum(-1)}


def score(params, frozen, extra, embeddings, batch, totals, key_B):
    """InfoNCE of each row with its successor, a temperature that is trained, and a term of each row alone."""
    temperature = jnp.exp(params["head"]["kernel"][0, 0])
    logits_BB = embeddings["h"] @ jnp.roll(embeddings["h"], 1, axis=0).T * temperature
    rows = jnp.diagonal(jax.nn.log_softmax(logits_BB))
    loss = -(batch["w"] * rows).sum() / totals["fit"] + embeddings["own"].sum() / 16
    return loss, Aux({"nce": loss}, {"rows": jnp.float32(rows.shape[0])})


SPANNING = gradients.Spanning(encode, score)


@pytest.mark.parametrize("accum", [2, 8])
def test_cached_gradients_of_a_loss_that_spans_the_batch_are_exact(accum):
    got, wanted = take(gradients.cached(accum), SPANNING), take(gradients.summed(1), SPANNING)
    close(got, wanted)
    assert float(got[2].stats["rows"]) == 16


def test_plain_microbatches_of_such_a_loss_are_refused():
    with pytest.raises(ValueError, match=r"gradients\.cached"):
        take(gradients.summed(4), SPANNING)
    with pytest.raises(TypeError, match="Spanning"):
        take(gradients.cached(4), tiny.loss)


def by_hand(clip, batch, expected):
    """The clipped gradient by a plain loop over rows."""
    total = jax.tree.map(jnp.zeros_like, PARAMS)
    keys = gradients.example_keys(KEY, 16)

    @jax.jit
    def alone(row, key_B):
        totals = {name: jnp.where(t > 0, t, 1) for name, t in tiny.weigh(row).items()}
        return jax.grad(lambda p: tiny.loss(p, FROZEN, None, row, totals, key_B)[0])(PARAMS)

    for i in range(16):
        row = {name: x[i : i + 1] for name, x in batch.items()}
        if float(row["w"][0]) == 0:
            continue
        grads = alone(row, keys[i : i + 1])
        scale = min(1.0, clip / float(gradients.norm_of(grads)))
        total = jax.tree.map(lambda t, g: t + g * scale, total, grads)  # noqa: B023
    return jax.tree.map(lambda t: t / expected, total)


def test_clipped_without_noise_is_the_loop_over_rows_and_padding_adds_nothing():
    pad = jnp.arange(16) < 13
    batch = dict(BATCH, w=BATCH["w"] * pad, user=jnp.where(pad, BATCH["user"], 1))
    got, _, aux = take(gradients.clipped(3.0, 0.0, 10, chunk=4), batch=batch)
    close(got, by_hand(3.0, batch, 10), 1e-5)
    assert 0 < float(aux.metrics["clipped"]) < 12.5 / 10


def test_the_noise_has_the_stated_deviation_on_every_parameter():
    silent = lambda p, f, e, b, t, k: (0.0 * p["users"]["table"].sum(), Aux({}))
    got, *_ = take(gradients.clipped(2.0, 3.0, 10), silent)
    values = jnp.concatenate([g.reshape(-1) for g in jax.tree.leaves(got)])
    assert abs(float(values.std()) - 2.0 * 3.0 / 10) < 0.08
    assert abs(float(values.mean())) < 0.1


def test_a_batch_whose_leaves_disagree_is_refused():
    with pytest.raises(ValueError, match="leads with B"):
        gradients.rows_of({"a": jnp.ones(3), "b": jnp.ones(4)})

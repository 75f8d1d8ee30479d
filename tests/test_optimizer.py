"""Schedules, weight decay by path, and the three directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.training.optimizer import OptConfig, make, rate


@pytest.mark.parametrize(
    ("schedule", "at"),
    [
        ("constant", {0: 0.1, 9: 1.0, 10: 1.0, 109: 1.0}),
        ("cosine", {0: 0.1, 10: 1.0, 60: 0.6, 110: 0.2}),
        ("linear", {0: 0.1, 10: 1.0, 60: 0.6, 110: 0.2}),
        ("stable", {0: 0.1, 10: 1.0, 89: 1.0, 110: 0.2}),
    ],
)
def test_the_rate_by_step(schedule, at):
    got = rate(OptConfig(lr=1.0, warmup=10, schedule=schedule, end=0.2), 110)
    for step, value in at.items():
        assert float(got(step)) == pytest.approx(value, abs=1e-6), step


def test_decay_spares_norms_and_biases():
    params = {
        "attn_norm": {"scale": jnp.ones(2)},
        "mlp": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
    }
    opt = make(OptConfig(lr=0.1, weight_decay=0.5, schedule="constant"), 10)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = opt.transform.update(zeros, opt.transform.init(params), params)
    np.testing.assert_allclose(updates["mlp"]["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["mlp"]["bias"], 0)
    np.testing.assert_array_equal(updates["attn_norm"]["scale"], 0)


@pytest.mark.parametrize("kind", ["adamw", "lion", "sgd"])
def test_every_kind_goes_downhill(kind):
    opt = make(OptConfig(kind=kind, lr=0.1, schedule="linear"), 100)
    x = jnp.asarray([3.0, -2.0])
    state = opt.transform.init(x)
    for _ in range(100):
        updates, state = opt.transform.update(2 * x, state, x)
        x = x + updates
    assert float(jnp.abs(x).max()) < 0.5

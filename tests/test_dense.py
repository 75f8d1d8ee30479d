"""The one seam: a change that all rows share, folded into the kernel, is the change that is applied beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import quant
from jaxrec.nn import layers
from jaxrec.structs import Lora

WIDE, OUT, RANK = 6, 10, 2


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    lora = Lora(normal(1, WIDE, RANK), normal(1, RANK, OUT), jnp.full((1,), 0.7))
    return normal(3, 9, WIDE), normal(WIDE, OUT), lora, normal(OUT)


def test_folded_or_beside_is_one_change_and_one_gradient(case, monkeypatch):
    x, w, lora, bias = case
    wave = jnp.cos(jnp.arange(3 * 9 * OUT, dtype=jnp.float32)).reshape(3, 9, OUT)

    def told(x, w, lora, bias):
        y = layers.dense(x, w, lora, bias)
        return jnp.sum(y * wave), y

    # a function of its own each time: jit remembers what it has traced
    both = lambda: jax.jit(
        jax.value_and_grad(lambda *given: told(*given), (0, 1, 2, 3), has_aux=True)
    )
    assert layers._folds(x, w, lora)
    (_, folded), slopes = both()(x, w, lora, bias)
    monkeypatch.setattr(layers, "_folds", lambda *_: False)
    (_, beside), wanted = both()(x, w, lora, bias)
    np.testing.assert_allclose(folded, beside, atol=1e-5)
    for got, want in zip(jax.tree.leaves(slopes), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5)


def test_it_is_folded_only_where_that_is_less_work_and_as_good(case):
    x, w, lora, _ = case
    assert not layers._folds(x[:1, :3], w, lora)  # a decoded token or two
    own = jax.tree.map(lambda leaf: jnp.repeat(leaf, 3, 0), lora)
    assert not layers._folds(x, w, own)
    assert not layers._folds(x.astype(jnp.bfloat16), w, lora)
    assert not layers._folds(x, w.astype(jnp.bfloat16), lora)
    assert not layers._folds(x, quant.quantise(w, "int8"), lora)

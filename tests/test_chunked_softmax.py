"""Log-probabilities without the scores: equal to log_softmax in value, gradient and memory's absence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.losses.chunked_softmax import log_probs

ROWS, LENGTH, WIDTH, CLASSES = 3, 11, 8, 29


@pytest.fixture(scope="module")
def case():
    keys = jax.random.split(jax.random.key(0), 5)
    return {
        "z": jax.random.normal(keys[0], (ROWS, LENGTH, WIDTH)),
        "classes": jax.random.normal(keys[1], (CLASSES, WIDTH)),
        "bias": jax.random.normal(keys[2], (CLASSES,)),
        "target": jax.random.randint(keys[3], (ROWS, LENGTH), 0, CLASSES),
        "counts": (jax.random.uniform(keys[4], (ROWS, LENGTH)) > 0.4).at[1].set(False),
    }


def plain(z_BLD, classes_VD, bias_V, target_BL, counts_BL):
    scores_BLV = z_BLD @ classes_VD.T + (0 if bias_V is None else bias_V[None, None])
    log_p_BLV = jax.nn.log_softmax(scores_BLV)
    own_BL = jnp.take_along_axis(log_p_BLV, target_BL[..., None], axis=-1)[..., 0]
    best_BL = scores_BLV.argmax(-1) == target_BL
    return jnp.where(counts_BL, own_BL, 0), best_BL & counts_BL


@pytest.mark.parametrize("chunk", [1, 12, 512])  # one position of each row, four, all
@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients_are_those_of_log_softmax(case, chunk, biased):
    bias_V = case["bias"] if biased else None
    slope_BL = jnp.sin(jnp.arange(ROWS * LENGTH, dtype=jnp.float32)).reshape(ROWS, LENGTH)

    def both(how):
        def value(z, classes, bias):
            log_p, best = how(z, classes, bias)
            return jnp.sum(log_p * slope_BL), (log_p, best)

        of = (0, 1, 2) if biased else (0, 1)
        return jax.jit(jax.value_and_grad(value, of, has_aux=True))(
            case["z"], case["classes"], bias_V
        )

    (_, (log_p, best)), grads = both(
        lambda z, v, b: log_probs(z, v, case["target"], case["counts"], b, chunk)
    )
    (_, (wanted_p, wanted_best)), wanted = both(
        lambda z, v, b: plain(z, v, b, case["target"], case["counts"])
    )
    np.testing.assert_allclose(log_p, wanted_p, atol=2e-6)
    np.testing.assert_array_equal(best, wanted_best)
    for got, want in zip(grads, wanted, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_nothing_counts(case):
    none = jnp.zeros_like(case["counts"])
    value = lambda z: log_probs(z, case["classes"], case["target"], none)[0].sum()
    log_p, slope = jax.value_and_grad(value)(case["z"])
    assert log_p == 0 and not slope.any()


def test_frozen_classes_cost_no_second_pass_and_no_scores_are_kept():
    z, classes = jnp.zeros((4, 256, 16)), jnp.zeros((2000, 16))
    target, counts = jnp.zeros((4, 256), jnp.int32), jnp.ones((4, 256), bool)
    loss = lambda z, v: log_probs(z, v, target, counts, chunk=64)[0].sum()
    compiled = lambda of: jax.jit(jax.grad(loss, of)).lower(z, classes).compile()
    frozen, learned = compiled(0), compiled((0, 1))
    scores = 4 * 256 * 2000 * 4  # bytes
    assert learned.memory_analysis().temp_size_in_bytes < scores / 4
    loops = lambda program: program.as_text().count(" while(")
    assert loops(frozen) == 1 and loops(learned) == 2


def test_bfloat16_scores_are_summed_in_f32(case):
    z, classes = (case[name].astype(jnp.bfloat16) for name in ("z", "classes"))
    told, _ = log_probs(z, classes, case["target"], case["counts"])
    wide = lambda x: x.astype(jnp.float32)
    wanted, _ = plain(wide(z), wide(classes), None, case["target"], case["counts"])
    assert told.dtype == jnp.float32
    np.testing.assert_allclose(told, wanted, atol=1e-4)

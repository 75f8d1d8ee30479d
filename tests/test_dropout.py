"""Hash dropout: as random as dropout must be, and the same whatever the batch around a row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.dropout import dropout, hashed_bits
from jaxrec.training.gradients import example_keys

KEYS = example_keys(jax.random.key(7), 64)


def test_the_bits_are_even_and_independent():
    bits = np.asarray(hashed_bits(KEYS, (32, 64), 3))  # 131,072 words
    ones = np.unpackbits(bits.view(np.uint8)).reshape(-1, 32).mean(0)
    assert np.abs(ones - 0.5).max() < 5 * 0.5 / np.sqrt(bits.size)
    for shift in (0, 8, 16, 24):  # each byte is uniform: chi-squared with 255 degrees of freedom
        count = np.bincount((bits >> shift).reshape(-1) & 255, minlength=256)
        chi = np.square(count - bits.size / 256).sum() / (bits.size / 256)
        assert 255 - 6 * np.sqrt(510) < chi < 255 + 6 * np.sqrt(510)
    sign = np.where(bits >> 31, 1.0, -1.0)
    other = np.where(np.asarray(hashed_bits(KEYS, (32, 64), 4)) >> 31, 1.0, -1.0)
    later = np.where(
        np.asarray(hashed_bits(example_keys(jax.random.key(8), 64), (32, 64), 3)) >> 31, 1.0, -1.0
    )
    neighbours = {
        "next element": (sign[:, :, 1:], sign[:, :, :-1]),
        "next position": (sign[:, 1:], sign[:, :-1]),
        "next row": (sign[1:], sign[:-1]),
        "other site": (sign, other),
        "next step": (sign, later),
    }
    for name, (a, b) in neighbours.items():
        assert abs((a * b).mean()) < 5 / np.sqrt(a.size), name
    assert len(np.unique(bits)) > 0.9999 * bits.size


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_a_share_is_dropped_and_the_mean_stays(rate):
    y = np.asarray(dropout(jnp.ones((64, 32, 64)), rate, KEYS, 0))
    error = 5 * np.sqrt(rate * (1 - rate) / y.size)
    assert abs((y == 0).mean() - rate) < error
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-6)


def test_a_row_drops_alike_in_any_batch():
    x = jnp.ones((64, 5, 8))
    whole = dropout(x, 0.5, KEYS, 1)
    np.testing.assert_array_equal(whole[1::2], dropout(x[1::2], 0.5, KEYS[1::2], 1))
    assert (whole[0] != whole[1]).any()


def test_without_a_key_or_a_rate_nothing_is_dropped():
    x = jnp.ones((2, 3))
    assert dropout(x, 0.5, None, 0) is x and dropout(x, 0.0, KEYS[:2], 0) is x
    with pytest.raises(ValueError, match="rate"):
        dropout(x, 1.0, KEYS[:2], 0)

"""Pairs of a taken item and one that was not: binary cross-entropy and BPR. Arrays in, weighted sums out."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def bce(
    positive_T: Float[Array, " T"], negative_TJ: Float[Array, "T J"], weight_T: Float[Array, " T"]
) -> dict[str, Float[Array, ""]]:
    """Binary cross-entropy of the taken item against J that were not (Kang & McAuley 2018): `nll`, `correct`, `tokens`.

    `nll` is -log s(positive) - mean over J of log(1 - s(negative)), nats; `correct` counts pairs in the right order.
    """
    other_T = jax.nn.softplus(negative_TJ).mean(1)
    return _sums(jax.nn.softplus(-positive_T) + other_T, positive_T, negative_TJ, weight_T)


def bpr(
    positive_T: Float[Array, " T"], negative_TJ: Float[Array, "T J"], weight_T: Float[Array, " T"]
) -> dict[str, Float[Array, ""]]:
    """-log s(positive - negative), mean over J (Rendle 2009): `nll`, `correct`, `tokens`, weighted sums."""
    loss_T = jax.nn.softplus(negative_TJ - positive_T[:, None]).mean(1)
    return _sums(loss_T, positive_T, negative_TJ, weight_T)


def _sums(loss_T: Array, positive_T: Array, negative_TJ: Array, weight_T: Array) -> dict:
    ordered_T = (positive_T[:, None] > negative_TJ).mean(1)
    return {
        "nll": jnp.sum(loss_T * weight_T),
        "correct": jnp.sum(ordered_T * weight_T),
        "tokens": jnp.sum(weight_T),
    }

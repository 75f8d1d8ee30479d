"""Losses over labels: several yes-or-no labels at once, of which some may be unknown in a row, or one of many."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def binary_cross_entropy(
    logits_BW: Float[Array, "B W"],
    target_BW: Float[Array, "B W"],
    positive_W: Float[Array, " W"],
    weight_B: Float[Array, " B"],
) -> dict[str, Float[Array, " W"]]:
    """`nll` (nats), `correct` (at one half) and `known`, each a weighted sum over rows, by label.

    target_BW: 0 to 1; below 0 the label is unknown there and counts nowhere. positive_W: how much a "yes" counts beside
    a "no" (class weight): -(w t log s(x) + (1 - t) log s(-x)), whose optimum lies log w above the true log-odds.
    logits_BW: a score for each of W labels. weight_B: of each row.
    """
    x, known = logits_BW.astype(jnp.float32), (target_BW >= 0) * weight_B[:, None]
    target = jnp.clip(target_BW, 0.0, 1.0)
    # log(1 - s(x)) is written as log s(-x): in f32 the difference is 0 from about x = 17 on, and its logarithm
    # infinite.
    nll = -(
        positive_W[None] * target * jax.nn.log_sigmoid(x) + (1 - target) * jax.nn.log_sigmoid(-x)
    )
    return {
        "nll": jnp.sum(nll * known, 0),
        "correct": jnp.sum(((x > 0) == (target > 0.5)) * known, 0),
        "known": jnp.sum(known, 0),
    }


def positive_weights(
    target_BW: Float[np.ndarray, "B W"], most: float = 10.0, power: float = 0.5
) -> Float[np.ndarray, " W"]:
    """Class weights (no / yes) ** power of each label, from 1 / `most` to `most`; 1 where either is absent.

    power 0: none; 1: both sides weigh the same; one half, between the two, keeps rare labels from shouting.
    """
    yes, no = (target_BW > 0.5).sum(0), ((target_BW >= 0) & (target_BW <= 0.5)).sum(0)
    ratio = np.where((yes > 0) & (no > 0), no / np.maximum(yes, 1), 1.0) ** power
    return np.clip(ratio, 1 / most, most).astype(np.float32)


def cross_entropy(
    logits_BW: Float[Array, "B W"], label_B: Int[Array, " B"], weight_B: Float[Array, " B"]
) -> dict[str, Float[Array, ""]]:
    """`nll` (nats) and `correct`, weighted sums over rows; a label below 0 counts as unlabelled (weight 0)."""
    weight = weight_B * (label_B >= 0)
    log_p = jax.nn.log_softmax(logits_BW.astype(jnp.float32))
    # An unlabelled row (-1) has no weight, and any index that exists will do for it.
    picked = jnp.take_along_axis(log_p, jnp.maximum(label_B, 0)[:, None], axis=-1)[:, 0]
    return {
        "nll": -jnp.sum(picked * weight),
        "correct": jnp.sum((logits_BW.argmax(-1) == label_B) * weight),
        "rows": jnp.sum(weight),
    }

"""Classification losses: one label of many, or many at once."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits_BW: Float[Array, "B W"], label_B: Int[Array, " B"], weight_B: Float[Array, " B"]
) -> dict[str, Float[Array, ""]]:
    """`nll` (nats) and `correct`, weighted sums over rows; a label below 0 counts as unlabelled (weight 0)."""
    weight = weight_B * (label_B >= 0)
    log_p = jax.nn.log_softmax(logits_BW.astype(jnp.float32))
    picked = jnp.take_along_axis(log_p, jnp.maximum(label_B, 0)[:, None], axis=-1)[:, 0]
    return {
        "nll": -jnp.sum(picked * weight),
        "correct": jnp.sum((logits_BW.argmax(-1) == label_B) * weight),
        "rows": jnp.sum(weight),
    }

"""Cross-entropy of semantic ids: each level's code among that level's codes. Sums, as everywhere."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def next_codes(
    logits_BLQC: Float[Array, "B L Q C"],
    codes_BLQ: Int[Array, "B L Q"],
    weight_BL: Float[Array, "B L"],
    sizes: tuple[int, ...],
    smoothing: float = 0.0,
) -> dict[str, Float[Array, "..."]]:
    """`nll` (nats, of the true codes), `loss` (with label smoothing, over a level's own codes), weighted sums over
    places and levels; and `correct_Q`, greedy hits by level.

    logits_BLQC: scores of the C codes at each place and level. codes_BLQ: the true ones. weight_BL: of each place.
    sizes: how many codes each level has; the columns beyond are no code's.
    """
    log_p = jax.nn.log_softmax(logits_BLQC.astype(jnp.float32), axis=-1)
    picked_BLQ = jnp.take_along_axis(log_p, codes_BLQ[..., None], axis=-1)[..., 0]
    weight_BLQ = weight_BL[:, :, None]
    nll = -(picked_BLQ * weight_BLQ).sum()
    loss = nll
    if smoothing:
        count_Q = jnp.asarray(sizes, jnp.float32)
        there_QC = jnp.arange(log_p.shape[-1])[None] < count_Q[:, None]
        even_BLQ = jnp.where(there_QC[None, None], log_p, 0.0).sum(-1) / count_Q[None, None]
        loss = (1 - smoothing) * nll - smoothing * (even_BLQ * weight_BLQ).sum()
    hit_BLQ = logits_BLQC.argmax(-1) == codes_BLQ
    return {"nll": nll, "loss": loss, "correct_Q": (hit_BLQ * weight_BLQ).sum((0, 1))}

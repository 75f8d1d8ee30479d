"""Losses over token rows. Arrays in, sums and weights out: who divides, and by what, is the step's business."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped


def next_token(
    logits_BLV: Float[Array, "B L V"],
    ids_BL: Int[Array, "B L"],
    loss_BL: Float[Array, "B L"],
) -> dict[str, Float[Array, ""]]:
    """Cross-entropy of each token given those before it, summed with the weights `loss_BL`.

    Returns `nll` (nats), `correct` (greedy hits) and `tokens`, each a weighted sum over the batch.
    """
    logits, targets, weight = logits_BLV.astype(jnp.float32), following(ids_BL), following(loss_BL)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return {
        "nll": jnp.sum((log_z - picked) * weight),
        "correct": jnp.sum((logits.argmax(-1) == targets) * weight),
        "tokens": jnp.sum(weight),
    }


def following(x_BL: Shaped[Array, "B L"]) -> Shaped[Array, "B L"]:
    """What stands one place later; 0 at the end. Targets are shifted rather than logits cut: `logits[:, :-1]` is a copy
    of the largest array of a step."""
    return jnp.pad(x_BL[:, 1:], ((0, 0), (0, 1)))


def sequence_logprob(
    logits_BLV: Float[Array, "B L V"],
    ids_BL: Int[Array, "B L"],
    loss_BL: Float[Array, "B L"],
) -> Float[Array, " B"]:
    """Weighted sum of token log-probabilities of each row, nats."""
    logits, targets = logits_BLV.astype(jnp.float32), following(ids_BL)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jnp.sum((picked - jax.nn.logsumexp(logits, axis=-1)) * following(loss_BL), axis=-1)


def distil(
    student_BLV: Float[Array, "B L V"],
    teacher_BLV: Float[Array, "B L V"],
    loss_BL: Float[Array, "B L"],
    temperature: float = 1.0,
) -> Float[Array, ""]:
    """KL(teacher || student) over the next token, summed with `loss_BL` shifted (Hinton 2015; scaled by T^2)."""
    student = jax.nn.log_softmax(student_BLV.astype(jnp.float32) / temperature)
    teacher = jax.nn.log_softmax(teacher_BLV.astype(jnp.float32) / temperature)
    kl_BL = jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)
    return temperature**2 * jnp.sum(kl_BL * following(loss_BL))

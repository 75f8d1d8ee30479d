"""Losses over token rows. Arrays in, sums and weights out: who divides, and by what, is the step's business."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def shifted_weights(loss_BL: Float[Array, "B L"]) -> Float[Array, "B W"]:
    """Weights of the L-1 predictions in a row: the first token is predicted by nothing."""
    return loss_BL[:, 1:]


def next_token(
    logits_BLV: Float[Array, "B L V"],
    ids_BL: Int[Array, "B L"],
    loss_BL: Float[Array, "B L"],
) -> dict[str, Float[Array, ""]]:
    """Cross-entropy of each token given those before it, summed with the weights `loss_BL`.

    Returns `nll` (nats), `correct` (greedy hits) and `tokens`, each a weighted sum over the batch.
    """
    logits, targets, weight = logits_BLV[:, :-1].astype(jnp.float32), ids_BL[:, 1:], loss_BL[:, 1:]
    log_z = jax.nn.logsumexp(logits, axis=-1)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return {
        "nll": jnp.sum((log_z - picked) * weight),
        "correct": jnp.sum((logits.argmax(-1) == targets) * weight),
        "tokens": jnp.sum(weight),
    }


def sequence_logprob(
    logits_BLV: Float[Array, "B L V"],
    ids_BL: Int[Array, "B L"],
    loss_BL: Float[Array, "B L"],
) -> Float[Array, " B"]:
    """Weighted sum of token log-probabilities of each row, nats."""
    logits, targets = logits_BLV[:, :-1].astype(jnp.float32), ids_BL[:, 1:]
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jnp.sum((picked - jax.nn.logsumexp(logits, axis=-1)) * loss_BL[:, 1:], axis=-1)


def distil(
    student_BLV: Float[Array, "B L V"],
    teacher_BLV: Float[Array, "B L V"],
    loss_BL: Float[Array, "B L"],
    temperature: float = 1.0,
) -> Float[Array, ""]:
    """KL(teacher || student) over the next token, summed with `loss_BL` shifted (Hinton 2015; scaled by T^2)."""
    student = jax.nn.log_softmax(student_BLV[:, :-1].astype(jnp.float32) / temperature)
    teacher = jax.nn.log_softmax(teacher_BLV[:, :-1].astype(jnp.float32) / temperature)
    kl_BL = jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)
    return temperature**2 * jnp.sum(kl_BL * loss_BL[:, 1:])

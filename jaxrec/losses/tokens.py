"""Losses over token rows. Arrays in, sums and weights out: who divides, and by what, is the step's business."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped


def next_token(
    logits_BLV: Float[Array, "B L V"],
    ids_BL: Int[Array, "B L"],
    loss_BL: Float[Array, "B L"],
) -> dict[str, Float[Array, ""]]:
    """Cross-entropy of each token given those before it, summed with the weights `loss_BL`.

    Returns `nll` (nats), `correct` (above all others) and `tokens`, each a weighted sum over the batch.
    """
    log_p_BL, best_BL = next_log_probs(logits_BLV, ids_BL)
    return token_sums(log_p_BL, best_BL, loss_BL)


def token_sums(
    log_p_BL: Float[Array, "B L"], best_BL: Bool[Array, "B L"], loss_BL: Float[Array, "B L"]
) -> dict[str, Float[Array, ""]]:
    """`next_token` from what is known of each token."""
    weight = following(loss_BL)
    return {
        "nll": -jnp.sum(log_p_BL * weight),
        "correct": jnp.sum(best_BL * weight),
        "tokens": jnp.sum(weight),
    }


def next_log_probs(
    logits_BLV: Float[Array, "B L V"], ids_BL: Int[Array, "B L"]
) -> tuple[Float[Array, "B L"], Bool[Array, "B L"]]:
    """(log p, nats; is it likelier than any other?) of each token, told at the place before it."""
    logits = logits_BLV.astype(jnp.float32)
    picked = jnp.take_along_axis(logits, following(ids_BL)[..., None], axis=-1)[..., 0]
    rivals = jnp.sum(logits >= picked[..., None], axis=-1)  # itself among them
    return picked - jax.nn.logsumexp(logits, axis=-1), rivals == 1


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
    return jnp.sum(next_log_probs(logits_BLV, ids_BL)[0] * following(loss_BL), axis=-1)


def distil(
    student_BLV: Float[Array, "B L V"],
    teacher_BLV: Float[Array, "B L V"],
    loss_BL: Float[Array, "B L"],
    temperature: float = 1.0,
) -> Float[Array, ""]:
    """KL(teacher || student) over the next token, summed with `loss_BL` shifted (Hinton 2015; scaled by T^2).

    student_BLV, teacher_BLV: logits. temperature: T, which both are divided by.
    """
    student = jax.nn.log_softmax(student_BLV.astype(jnp.float32) / temperature)
    teacher = jax.nn.log_softmax(teacher_BLV.astype(jnp.float32) / temperature)
    kl_BL = jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)
    return temperature**2 * jnp.sum(kl_BL * following(loss_BL))

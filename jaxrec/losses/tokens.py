"""Losses over token rows: the next token, a teacher's, tokens that must not be said, the codes of semantic ids.

Arrays in, sums and weights out: who divides, and by what, is the step's business.
"""

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
    # Counted rather than by argmax, so that a tie is a miss: equal scores for all must not earn hits.
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
    # The gradient of softened targets shrinks like 1 / T^2 (Hinton 2015, section 2); the factor keeps the term's
    # weight the same at every temperature.
    return temperature**2 * jnp.sum(kl_BL * following(loss_BL))


def disallowed_tokens(
    logits_BLV: Float[Array, "B L V"],
    ids_BL: Int[Array, "B L"],
    loss_BL: Float[Array, "B L"],
    disallowed_BV: Bool[Array, "B V"],
) -> dict[str, Float[Array, " B"]]:
    """-log(1 - m) at each predicted token, m the probability of all tokens that the row's rules disallow, summed.

    That is unlikelihood training (Welleck 2020) with the set's mass in place of one token's. Where the example itself
    says a disallowed token the example wins: such a place has no penalty and is counted in `excepted`. At least one
    token must be allowed. Returns `penalty` (nats), `mass` and `excepted`, weighted sums by row.

    logits_BLV: scores of the next token. ids_BL: the tokens. loss_BL: weight of predicting each from those before it.
    disallowed_BV: the tokens that each row must not say.
    """
    log_p = jax.nn.log_softmax(logits_BLV.astype(jnp.float32))
    barred = disallowed_BV[:, None, :]
    # log of what is allowed, straight from log p: 1 - m would lose it where m is nearly 1
    log_allowed = jax.nn.logsumexp(jnp.where(barred, -1e30, log_p), -1)
    told = jnp.take_along_axis(disallowed_BV, following(ids_BL), axis=1)
    weight = following(loss_BL)
    free = weight * ~told
    return {
        "penalty": -jnp.sum(log_allowed * free, -1),
        "mass": jnp.sum(-jnp.expm1(log_allowed) * free, -1),
        "excepted": jnp.sum(weight * told, -1),
    }


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
        # Levels with fewer codes are padded to C columns. Smoothing spreads its mass over a level's own codes, or
        # the model would be asked for codes that don't exist.
        count_Q = jnp.asarray(sizes, jnp.float32)
        there_QC = jnp.arange(log_p.shape[-1])[None] < count_Q[:, None]
        even_BLQ = jnp.where(there_QC[None, None], log_p, 0.0).sum(-1) / count_Q[None, None]
        loss = (1 - smoothing) * nll - smoothing * (even_BLQ * weight_BLQ).sum()
    hit_BLQ = logits_BLQC.argmax(-1) == codes_BLQ
    return {"nll": nll, "loss": loss, "correct_Q": (hit_BLQ * weight_BLQ).sum((0, 1))}

"""Tokens that must not be said: binary cross-entropy of "a disallowed token comes next" against the truth, no."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrec.losses.tokens import following


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

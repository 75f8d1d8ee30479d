"""Losses of learning from rewards: PPO (Schulman 2017) and GRPO (Shao 2024). Arrays in, values a token out.

Who divides, and by what, is the step's business. `mask_BL` is True at the tokens that the policy chose; arrays of
shape B L hold at place t what belongs to token t (its log-probability *given those before it*), and their values
elsewhere are never looked at.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrec.losses.tokens import following

PerToken = Float[Array, "B L"]
Mask = Bool[Array, "B L"]


def token_log_probs(
    logits_BLV: Float[Array, "B L V"], ids_BL: Int[Array, "B L"], temperature: float | int = 1.0
) -> PerToken:
    """log p(token t | those before it) of softmax(logits / temperature), nats. 0 at the first token of a row."""
    logits = logits_BLV.astype(jnp.float32) / temperature
    # The chosen logit and the normaliser suffice: log_softmax would make a second array of [B, L, V].
    picked = jnp.take_along_axis(logits, following(ids_BL)[..., None], axis=-1)[..., 0]
    return _at_the_next(picked - jax.nn.logsumexp(logits, axis=-1))


def token_entropy(
    logits_BLV: Float[Array, "B L V"], temperature: float | int = 1.0
) -> Float[Array, "B L"]:
    """Entropy of the distribution that token t was drawn from, nats. 0 at the first token of a row."""
    logits = logits_BLV.astype(jnp.float32) / temperature
    log_z = jax.nn.logsumexp(logits, axis=-1)
    return _at_the_next(log_z - jnp.sum(jnp.exp(logits - log_z[..., None]) * logits, axis=-1))


def _at_the_next(x_BL: Array) -> Array:
    """What was said at each place, told at the next. (Cutting the logits would copy the largest array of a step.)"""
    return jnp.pad(x_BL[:, :-1], ((0, 0), (1, 0)))


# ------------------------------------------------------------------------------------------- advantages


def gae(
    reward_BL: PerToken,
    value_BL: PerToken,
    mask_BL: Mask,
    gamma: float | int = 1.0,
    lam: float | int = 0.95,
) -> tuple[PerToken, PerToken]:
    """(advantages, returns) by generalised advantage estimation (Schulman 2016), 0 outside the mask.

    value_BL: the value of the state in which token t was chosen. The state behind a row's last token is worth 0
    (the text has ended); tokens outside the mask are stepped over as if they were not there.
    reward_BL: what each token earned. mask_BL: the tokens that the policy chose. gamma: discount of later rewards. lam:
    0 trusts the next value, 1 the whole return.
    """

    def back(carry, now):
        advantage_B, next_B = carry
        reward_B, value_B, mask_B = now
        delta_B = reward_B + gamma * next_B - value_B
        made_B = delta_B + gamma * lam * advantage_B
        advantage_B = jnp.where(mask_B, made_B, advantage_B)
        return (advantage_B, jnp.where(mask_B, value_B, next_B)), advantage_B

    # Backwards in time, A_t = delta_t + gamma lam A_{t+1}: the sum of Schulman 2016 in one pass over the row.
    by_time = jax.tree.map(lambda x: x.T, (reward_BL, value_BL, mask_BL))
    zeros_B = jnp.zeros_like(reward_BL[:, 0])
    _, advantage_LB = jax.lax.scan(back, (zeros_B, zeros_B), by_time, reverse=True)
    advantage_BL = jnp.where(mask_BL, advantage_LB.T, 0.0)
    return advantage_BL, jnp.where(mask_BL, advantage_BL + value_BL, 0.0)


def group_advantages(
    reward_B: Float[Array, " B"], group: int, scale: bool = True, eps: float = 1e-4
) -> Float[Array, " B"]:
    """Rewards against the mean of their group, `group` neighbouring rows that answer one prompt (GRPO).

    scale: divided by the group's deviation (unbiased) + eps. Without it, as in "Dr. GRPO" (Liu 2025), a group that
    nearly agrees is not blown up. Raises ValueError where the group does not divide the rows, or has one row only.
    reward_B: one for each text.
    """
    rows = reward_B.shape[0]
    if group < 2 or rows % group:
        raise ValueError(f"groups of {group} rows cannot be made of {rows}: at least 2, no rest")
    reward_GS = reward_B.reshape(-1, group)
    away_GS = reward_GS - reward_GS.mean(1, keepdims=True)
    if scale:
        away_GS = away_GS / (reward_GS.std(1, keepdims=True, ddof=1) + eps)
    return away_GS.reshape(rows)


def masked_mean(x_BL: PerToken, mask_BL: Mask) -> Float[Array, ""]:
    """Mean over the mask; 0 where there is none."""
    return jnp.where(mask_BL, x_BL, 0.0).sum() / jnp.maximum(mask_BL.sum(), 1)


def whiten(
    x_BL: PerToken, mask_BL: Mask, shift: bool = True, eps: float = 1e-8
) -> Float[Array, "B L"]:
    """x over its deviation (unbiased) within the mask, about 0 or, without `shift`, about its own mean; 0 elsewhere.

    x_BL: a number for each token. mask_BL: which count. eps: added to the variance.
    """
    mean = masked_mean(x_BL, mask_BL)
    square = jnp.where(mask_BL, jnp.square(x_BL - mean), 0.0).sum()
    scale = jax.lax.rsqrt(square / jnp.maximum(mask_BL.sum() - 1, 1) + eps)
    white = (x_BL - mean) * scale
    return jnp.where(mask_BL, white if shift else white + mean, 0.0)


# ------------------------------------------------------------------------------------------------ losses


def clipped_policy(
    log_p_BL: PerToken,
    old_BL: PerToken,
    advantage_BL: PerToken,
    low: float = 0.2,
    high: float = 0.2,
) -> tuple[PerToken, Float[Array, "B L"]]:
    """(-min(r A, clip(r, 1 - low, 1 + high) A), whether the clip holds the token back: 1 or 0); r = p / p_old.

    A clip above that is wider than below keeps rare tokens alive ("clip higher", Yu 2025).

    log_p_BL: of the tokens now. old_BL: when they were chosen. advantage_BL: how much better than expected each was.
    """
    ratio = jnp.exp(log_p_BL - old_BL)
    free = ratio * advantage_BL
    held = jnp.clip(ratio, 1 - low, 1 + high) * advantage_BL
    # The minimum makes it a pessimistic bound (Schulman 2017, equation 7): the clip takes away the gain of going
    # further, and never hides that going back would help.
    return -jnp.minimum(free, held), (held < free).astype(jnp.float32)


def clipped_value(
    value_BL: PerToken, old_BL: PerToken, return_BL: PerToken, clip: float = 0.2
) -> PerToken:
    """max((v - R)^2, (v_clipped - R)^2) / 2, v_clipped within `clip` of the value at the rollout; 0: no clipping.

    value_BL: of the states now. old_BL: at the rollout. return_BL: what they are to predict (R).
    """
    free = jnp.square(value_BL - return_BL)
    if not clip:
        return free / 2
    near = old_BL + jnp.clip(value_BL - old_BL, -clip, clip)
    return jnp.maximum(free, jnp.square(near - return_BL)) / 2


def kl(log_p_BL: PerToken, log_q_BL: PerToken, kind: str = "k3") -> PerToken:
    """An estimate of KL(p || q) from tokens that p drew (Schulman 2020, "Approximating KL divergence").

    k1: log p/q, unbiased, of either sign. k3: q/p - 1 - log q/p, unbiased too, never negative and of less variance.
    """
    away = log_q_BL - log_p_BL
    if kind == "k1":
        return -away
    if kind == "k3":
        # p and q are nearly equal early in a run: exp(x) - 1 would lose most digits there, expm1 keeps them.
        return jnp.expm1(away) - away
    raise ValueError(f"a KL estimate {kind!r}: k1 or k3?")


def explained_variance(value_BL: PerToken, return_BL: PerToken, mask_BL: Mask) -> Float[Array, ""]:
    """1 - Var(R - v) / Var(R): 1 for a value head that knows, 0 for one that says a constant; 0 for equal returns."""
    variance = lambda x: masked_mean(jnp.square(x - masked_mean(x, mask_BL)), mask_BL)
    whole = variance(return_BL)
    part = variance(return_BL - value_BL) / jnp.maximum(whole, 1e-8)
    return jnp.where(whole > 1e-8, 1 - part, 0.0)

"""What belongs together above what does not: a taken item and one that was not (binary cross-entropy, BPR), and two
views of one thing among the batch's others, or a question's text among hard negatives too (InfoNCE, van den Oord 2018).
Arrays in, weighted sums out.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def bce(
    positive_T: Float[Array, " T"], negative_TJ: Float[Array, "T J"], weight_T: Float[Array, " T"]
) -> dict[str, Float[Array, ""]]:
    """Binary cross-entropy of the taken item against J that were not (Kang & McAuley 2018): `nll`, `correct`, `tokens`.

    `nll` is -log s(positive) - mean over J of log(1 - s(negative)), nats; `correct` counts pairs in the right order.
    """
    # softplus(x) is -log(1 - s(x)), and softplus(-x) is -log s(x), without a sigmoid that saturates.
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


def info_nce(
    a_BD: Float[Array, "B D"],
    b_BD: Float[Array, "B D"],
    temperature: float = 0.05,
    same_BB: Bool[Array, "B B"] | None = None,
) -> dict[str, Float[Array, ""]]:
    """Symmetric InfoNCE of cosine similarities, summed over rows; row i of `a` and of `b` mean the same.

    `same_BB` marks further pairs of like meaning: they are taken out of the negatives. On identical rows the sum
    is B log B. Returns `nce` and `hits` (rows whose partner is the nearest), both sums over rows.

    a_BD, b_BD: vectors of any length. temperature: what the cosines are divided by.
    """
    a = a_BD / (jnp.linalg.norm(a_BD, axis=-1, keepdims=True) + 1e-6)
    b = b_BD / (jnp.linalg.norm(b_BD, axis=-1, keepdims=True) + 1e-6)
    # Divided in f32: at a temperature of 0.05 scores reach 20, where bfloat16 goes in steps of an eighth.
    scores_BB = (a @ b.T).astype(jnp.float32) / temperature
    partner_BB = jnp.eye(len(a), dtype=bool)
    if same_BB is not None:
        scores_BB = jnp.where(same_BB & ~partner_BB, -jnp.inf, scores_BB)
    own = jnp.diagonal(scores_BB)
    there = jax.nn.logsumexp(scores_BB, axis=1) - own
    back = jax.nn.logsumexp(scores_BB, axis=0) - own
    return {
        "nce": jnp.sum(there + back) / 2,
        "hits": jnp.sum(own >= scores_BB.max(axis=1)).astype(jnp.float32),
    }


def found_among(
    q_BD: Float[Array, "B D"],
    c_CD: Float[Array, "C D"],
    right_B: Int[Array, " B"],
    text_C: Int[Array, " C"],
    temperature: float = 0.05,
) -> dict[str, Float[Array, ""]]:
    """InfoNCE one way: each question must find its text among C candidates; candidate i < B is question i's own.

    The candidates beyond B are hard negatives, everybody's. One that is a question's right text again counts for
    nothing there. On candidates that are all alike the sum is B log C. Returns `nce` and `hits`, sums over rows.

    q_BD, c_CD: vectors of length 1. right_B, text_C: numbers of the texts. temperature: what cosines are divided by.
    """
    scores_BC = (q_BD @ c_CD.T).astype(jnp.float32) / temperature
    own_BC = jnp.arange(len(right_B))[:, None] == jnp.arange(len(text_C))[None, :]
    again_BC = (right_B[:, None] == text_C[None, :]) & ~own_BC
    scores_BC = jnp.where(again_BC, -jnp.inf, scores_BC)
    own_B = jnp.sum(jnp.where(own_BC, scores_BC, 0.0), 1)
    return {
        "nce": jnp.sum(jax.nn.logsumexp(scores_BC, axis=1) - own_B),
        "hits": jnp.sum(own_B >= scores_BC.max(axis=1)).astype(jnp.float32),
    }

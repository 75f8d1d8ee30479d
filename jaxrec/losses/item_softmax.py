"""Softmax over the items of a catalogue: all of them, or a sample of them. Arrays in, weighted sums out.

Score of item i at position t: z_t . v_i. Among 12,000 items the scores of one batch are hundreds of megabytes, so the
full form never holds more than one chunk of positions: scores, their normaliser and both gradients are made together,
and thrown away.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

CHUNK = 512  # positions


def full(
    z_TD: Float[Array, "T D"],
    items_ID: Float[Array, "I D"],
    target_T: Int[Array, " T"],
    weight_T: Float[Array, " T"],
    chunk: int = CHUNK,
) -> dict[str, Float[Array, ""]]:
    """Cross-entropy over all items: `nll` (nats) and `tokens`, weighted sums over positions.

    Positions of weight 0 are moved to the end and chunks of nothing else are skipped: padding costs no scores.
    The gradient is made in the forward pass (it is linear in the one number that comes back).
    """
    count = weight_T.shape[0]
    order = jnp.argsort(weight_T == 0, stable=True)
    nll = _chunked(
        min(chunk, count), z_TD[order], items_ID, jnp.maximum(target_T, 0)[order], weight_T[order]
    )
    return {"nll": nll, "tokens": jnp.sum(weight_T)}


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(chunk: int, z_TD: Array, items_ID: Array, target_T: Array, weight_T: Array) -> Array:
    """Sum of weighted nll over the positions that come before the last one with a weight."""
    return _both(chunk, z_TD, items_ID, target_T, weight_T)[0]


def _forward(chunk: int, z_TD: Array, items_ID: Array, target_T: Array, weight_T: Array) -> tuple:
    nll, dz_TD, d_items_ID = _both(chunk, z_TD, items_ID, target_T, weight_T)
    return nll, (dz_TD, d_items_ID, target_T, weight_T)


def _backward(chunk: int, kept: tuple, cotangent: Array) -> tuple:
    del chunk
    dz_TD, d_items_ID, target_T, weight_T = kept
    none = np.zeros(target_T.shape, jax.dtypes.float0)
    return cotangent * dz_TD, cotangent * d_items_ID, none, jnp.zeros_like(weight_T)


_chunked.defvjp(_forward, _backward)


def _both(chunk: int, z_TD: Array, items_ID: Array, target_T: Array, weight_T: Array) -> tuple:
    """nll and its gradients with respect to z and items; only the chunks that weigh something are gone through."""
    count, width = z_TD.shape
    spare = -count % chunk
    long = lambda x: jnp.pad(x, ((0, spare),) + ((0, 0),) * (x.ndim - 1))
    z, weight = long(z_TD), long(weight_T)

    def one(n: Array, done: tuple) -> tuple:
        log_z_T, dz_TD, d_items_DI = done
        at = n * chunk
        z_CD = jax.lax.dynamic_slice_in_dim(z, at, chunk)
        weight_C1 = jax.lax.dynamic_slice_in_dim(weight, at, chunk)[:, None]
        scores_CI = z_CD @ items_ID.T
        top_C1 = scores_CI.max(1, keepdims=True)
        e_CI = jnp.exp(scores_CI - top_C1)
        total_C1 = e_CI.sum(1, keepdims=True)
        share_C1 = weight_C1 / total_C1
        put = lambda whole, part: jax.lax.dynamic_update_slice_in_dim(whole, part, at, 0)
        return (
            put(log_z_T, (top_C1 + jnp.log(total_C1))[:, 0]),
            put(dz_TD, (e_CI @ items_ID) * share_C1),
            d_items_DI + (z_CD * share_C1).T @ e_CI,
        )

    start = (
        jnp.zeros(count + spare, jnp.float32),
        jnp.zeros((count + spare, width), jnp.float32),
        jnp.zeros(items_ID.shape[::-1], jnp.float32),  # the matmul is faster this way round
    )
    chunks = -(-jnp.sum(weight_T != 0) // chunk)
    log_z_T, dz_TD, d_items_DI = jax.lax.fori_loop(0, chunks, one, start)
    own_TD, weight_T1 = items_ID[target_T], weight_T[:, None]
    nll = jnp.sum((log_z_T[:count] - jnp.sum(z_TD * own_TD, axis=1)) * weight_T)
    dz_TD = dz_TD[:count] - own_TD * weight_T1
    return nll, dz_TD, d_items_DI.T.at[target_T].add(-z_TD * weight_T1)


def sampled(
    z_TD: Float[Array, "T D"],
    items_ID: Float[Array, "I D"],
    target_T: Int[Array, " T"],
    weight_T: Float[Array, " T"],
    negatives_J: Int[Array, " J"],
    log_q_I: Float[Array, " I"],
) -> dict[str, Float[Array, ""]]:
    """Cross-entropy of the target against J items drawn with replacement, the same J for all positions.

    `log_q_I`: log of the probability of each item in one draw. With log(J q) taken from its score a drawn item stands
    for all those like it, so the sampled sum is an unbiased estimate of the full one (Bengio & Senecal 2008), and every
    item once is the full loss. Draws of the target are left out: it counts once by itself. Returns `nll`, `tokens`.
    """
    target_T = jnp.maximum(target_T, 0)
    own_T = jnp.sum(z_TD * items_ID[target_T], axis=1)
    log_copies_J = log_q_I[negatives_J] + math.log(len(negatives_J))
    scores_TJ = z_TD @ items_ID[negatives_J].T - log_copies_J[None]
    scores_TJ = jnp.where(target_T[:, None] == negatives_J[None], -jnp.inf, scores_TJ)
    log_z_T = jax.nn.logsumexp(jnp.concatenate([own_T[:, None], scores_TJ], axis=1), axis=1)
    return {"nll": jnp.sum((log_z_T - own_T) * weight_T), "tokens": jnp.sum(weight_T)}

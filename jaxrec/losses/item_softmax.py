"""Softmax over the items of a catalogue: all of them, or a sample of them. Arrays in, weighted sums out.

Score of item i at position t: z_t . v_i. Among 12,000 items the scores of one batch are hundreds of megabytes, so the
full form goes through them in chunks (`losses.chunked_softmax`).
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxrec import mesh as meshes
from jaxrec.losses.chunked_softmax import CHUNK, through


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

    z_TD: hidden states of packed positions. items_ID: a vector for each item. target_T: the item that comes next.
    weight_T: of each position, 0 for padding. chunk: positions scored at a time.
    """
    parts = meshes.row_parts(len(z_TD))
    if parts == 1:
        order = jnp.argsort(weight_T == 0, stable=True)
        first = lambda x: x[order]
    else:  # every device moves its own positions, and none travels
        cut = lambda x: x.reshape(parts, -1, *x.shape[1:])
        order = jnp.argsort(cut(weight_T == 0), axis=1, stable=True)
        first = lambda x: jax.vmap(lambda own, at: own[at])(cut(x), order).reshape(x.shape)
    target_T = first(jnp.maximum(target_T, 0))
    nll = _nll(chunk, first(z_TD), items_ID, target_T, first(weight_T))
    return {"nll": nll, "tokens": jnp.sum(weight_T)}


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _nll(chunk: int, z_TD: Array, items_ID: Array, target_T: Array, weight_T: Array) -> Array:
    """Sum of weighted nll."""
    return _both(chunk, z_TD, items_ID, target_T, weight_T)[0]


def _both(chunk: int, z_TD: Array, items_ID: Array, target_T: Array, weight_T: Array) -> tuple:
    """nll and, of one pass, its gradients with respect to z and items: both are wanted, and the weights are known."""
    # A row for each device, so that it goes through chunks of its own positions.
    parts = meshes.row_parts(len(z_TD))
    rows = lambda x: x[None] if parts == 1 else x.reshape(parts, -1, *x.shape[1:])
    flat = lambda x: x[0] if parts == 1 else x.reshape(-1, *x.shape[2:])
    items_ID = meshes.put(items_ID, "classes")
    told = through(
        chunk, rows(z_TD), items_ID, None, rows(target_T), rows(weight_T),
        towards_z=True, towards_classes=True,
    )  # fmt: skip
    nll = jnp.sum((flat(told.log_z_BL) - flat(told.own_BL)) * weight_T)
    weight_T1 = weight_T[:, None]
    # The gradient of -log p, hence the opposite sign of `chunked_softmax`.
    dz_TD = (flat(told.mean_BLD) - items_ID[target_T]) * weight_T1
    d_items_ID = told.outer_DV.T
    if parts == 1:
        d_items_ID = d_items_ID.at[target_T].add(-z_TD * weight_T1)
    return nll, dz_TD, d_items_ID


def _forward(chunk: int, z_TD: Array, items_ID: Array, target_T: Array, weight_T: Array) -> tuple:
    nll, dz_TD, d_items_ID = _both(chunk, z_TD, items_ID, target_T, weight_T)
    return nll, (dz_TD, d_items_ID, target_T, weight_T)


def _backward(chunk: int, kept: tuple, cotangent: Array) -> tuple:
    del chunk
    dz_TD, d_items_ID, target_T, weight_T = kept
    none = np.zeros(target_T.shape, jax.dtypes.float0)
    # The loss is one number and so is what comes back: the gradients of the forward pass need no more than scaling.
    # Targets and weights are data.
    return cotangent * dz_TD, cotangent * d_items_ID, none, jnp.zeros_like(weight_T)


_nll.defvjp(_forward, _backward)


def sampled_softmax(
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
    z_TD: hidden states. items_ID: a vector for each item. target_T: the item that comes next. weight_T: of each
    position. negatives_J: numbers of the drawn items.
    """
    target_T = jnp.maximum(target_T, 0)
    own_T = jnp.sum(z_TD * items_ID[target_T], axis=1)
    # J draws hold an item J q times on average; taking the logarithm of that off makes one copy weigh 1 / (J q).
    log_copies_J = log_q_I[negatives_J] + math.log(len(negatives_J))
    scores_TJ = z_TD @ items_ID[negatives_J].T - log_copies_J[None]
    scores_TJ = jnp.where(target_T[:, None] == negatives_J[None], -jnp.inf, scores_TJ)
    log_z_T = jax.nn.logsumexp(jnp.concatenate([own_T[:, None], scores_TJ], axis=1), axis=1)
    return {"nll": jnp.sum((log_z_T - own_T) * weight_T), "tokens": jnp.sum(weight_T)}

"""Softmax over very many classes (the items of a catalogue, the tokens of a vocabulary), never held as a whole.

    log p(target) = z . v_target + b_target - log sum_i exp(z . v_i + b_i)

The scores of a batch are its largest array by far: 67 MB for 2,048 tokens and 8,192 words, 1.2 GB for a vocabulary of
150,000. Here a batch is gone through in chunks of positions; scores, their normaliser and the gradient with respect to
z are made together and the scores thrown away. That gradient is linear in the one number that comes back for each
position, so it can be made before that number is known, and costs the backward pass nothing.

Positions that don't count are moved behind the others of their row and chunks of nothing else are skipped: a prompt
whose words nobody learns costs no scores. Rows stay rows, so a batch that is sharded by row stays so: each device goes
through chunks of its own rows, against classes that were gathered once, and adds up its own part of their gradient.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxrec import mesh as meshes

CHUNK = 512  # positions, over all rows of a device


class Pass(NamedTuple):
    """What one pass over the scores gives. Positions in chunks that were skipped are 0."""

    log_z_BL: Array  # log of the softmax's denominator
    own_BL: Array  # the target's score
    best_BL: Array  # 1 where it is above all others
    mean_BLD: Array | None  # sum_i p_i v_i: of z's gradient the part that meets all classes
    # Likewise of the gradients of classes (sum_t w_t z_t p_t) and biases (sum_t w_t p_t). Where devices have rows of
    # their own the targets' part is in it already: p_t less 1 at the target.
    outer_DV: Array | None
    share_V: Array | None


def log_probs(
    z_BLD: Float[Array, "B L D"],
    classes_VD: Float[Array, "V D"],
    target_BL: Int[Array, "B L"],
    counts_BL: Bool[Array, "B L"],
    bias_V: Float[Array, " V"] | None = None,
    chunk: int = CHUNK,
) -> tuple[Float[Array, "B L"], Bool[Array, "B L"]]:
    """(log p of the target, nats; is it likelier than any other?) of each position that counts; 0 and False elsewhere.

    Scores and sums are in f32, whatever z's type. Where the classes learn too, the backward pass makes their scores
    once more. Differentiable once, in reverse.

    z_BLD: hidden states. classes_VD: a vector for each class, the output head. bias_V: added to its scores. target_BL:
    the class at each position. counts_BL: which positions count. chunk: positions scored at a time, by each device.
    """
    order_BL = jnp.argsort(~counts_BL, axis=1, stable=True)
    first = lambda x_BL: jnp.take_along_axis(x_BL, order_BL, axis=1)
    z_BLD = jnp.take_along_axis(meshes.put(z_BLD, "residual"), order_BL[..., None], axis=1)
    log_p_BL, best_BL = _log_probs(
        chunk, z_BLD, classes_VD, bias_V, first(target_BL), first(counts_BL)
    )
    back_BL = jnp.argsort(order_BL, axis=1)
    placed = lambda x_BL: jnp.take_along_axis(x_BL, back_BL, axis=1)
    return placed(log_p_BL), placed(best_BL)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _log_probs(chunk: int, z_BLD, classes_VD, bias_V, target_BL, counts_BL):
    passed = through(chunk, z_BLD, classes_VD, bias_V, target_BL, counts_BL)
    return _told(passed, counts_BL)


def _told(passed: Pass, counts_BL: Array) -> tuple[Array, Array]:
    log_p_BL = jnp.where(counts_BL, passed.own_BL - passed.log_z_BL, 0.0)
    return log_p_BL, counts_BL & (passed.best_BL > 0)


def _forward(chunk: int, z_BLD, classes_VD, bias_V, target_BL, counts_BL):
    # Over devices the classes are gathered in z's type, once for the scores and for what is read of them here.
    near_VD = classes_VD
    if meshes.in_force() is not None:
        near_VD = meshes.put(classes_VD.astype(z_BLD.dtype), "classes")
    passed = through(chunk, z_BLD, near_VD, bias_V, target_BL, counts_BL, towards_z=True)
    # d log p / d z = v_target - sum_i p_i v_i. What comes back in the backward pass only multiplies it, a number a
    # position, so it is finished here, where the scores exist anyway.
    slope_BLD = jnp.where(counts_BL[..., None], near_VD[target_BL] - passed.mean_BLD, 0.0)
    kept = (slope_BLD.astype(z_BLD.dtype), z_BLD, classes_VD, bias_V, target_BL, counts_BL)
    return _told(passed, counts_BL), kept


def _backward(chunk: int, kept: tuple, cotangents: tuple) -> tuple:
    slope_BLD, z_BLD, classes_VD, bias_V, target_BL, counts_BL = kept
    weight_BL = jnp.where(counts_BL, cotangents[0], 0.0)
    # thrown away with its loop by the compiler where the classes are frozen
    again = through(chunk, z_BLD, classes_VD, bias_V, target_BL, weight_BL, towards_classes=True)
    own_BLD = z_BLD.astype(jnp.float32) * weight_BL[..., None]
    d_classes_VD = -again.outer_DV.T
    d_bias_V = None if bias_V is None else -again.share_V
    if meshes.row_parts(len(z_BLD)) == 1:
        # Added and not set: a class may be the target at several places.
        d_classes_VD = d_classes_VD.at[target_BL].add(own_BLD)
        d_bias_V = None if bias_V is None else d_bias_V.at[target_BL].add(weight_BL)
    return (
        (slope_BLD * weight_BL[..., None]).astype(z_BLD.dtype),
        d_classes_VD.astype(classes_VD.dtype),
        None if bias_V is None else d_bias_V.astype(bias_V.dtype),
        *(np.zeros(target_BL.shape, jax.dtypes.float0) for _ in range(2)),
    )


_log_probs.defvjp(_forward, _backward)


def through(
    chunk: int,
    z_BLD: Array,
    classes_VD: Array,
    bias_V: Array | None,
    target_BL: Array,
    weight_BL: Array,
    towards_z: bool = False,
    towards_classes: bool = False,
) -> Pass:
    """One pass over the scores, up to the last position of any row that weighs something.

    chunk: positions at a time, of each device. z_BLD, classes_VD, bias_V, target_BL: as of `log_probs`. weight_BL: of
    each position.
    towards_z, towards_classes: whether the gradients towards the hidden states and the classes are made along the way.
    """
    (rows, length, width), classes = z_BLD.shape, classes_VD.shape[0]
    # Cut along L and not along the rows: a chunk then has a part of every row, and each device of a sharded batch
    # works on rows of its own.
    parts = meshes.row_parts(rows)
    piece = min(max(chunk * parts // rows, 1), length)
    spare = -length % piece
    long = lambda x: jnp.pad(x, ((0, 0), (0, spare)) + ((0, 0),) * (x.ndim - 2))
    z, target, weight = long(z_BLD), long(target_BL), long(weight_BL)
    classes_VD = meshes.put(classes_VD.astype(z.dtype), "classes")
    by_part = lambda x: x.reshape(parts, -1, x.shape[-1])

    def one(n: Array, done: Pass) -> Pass:
        cut = lambda x: jax.lax.dynamic_slice_in_dim(x, n * piece, piece, axis=1)
        put = lambda whole, part: jax.lax.dynamic_update_slice_in_dim(
            whole, part.reshape(rows, piece, *part.shape[1:]), n * piece, axis=1
        )
        z_CD = cut(z).reshape(-1, width)
        # The factors may be of 16 bits, but the scores are not: the normaliser sums exponentials of all of them.
        scores_CV = jnp.matmul(z_CD, classes_VD.T, preferred_element_type=jnp.float32)
        if bias_V is not None:
            scores_CV = scores_CV + bias_V[None]
        scores_CV = meshes.put(scores_CV, "scores")
        top_C1 = scores_CV.max(1, keepdims=True)
        e_CV = jnp.exp(scores_CV - top_C1)
        total_C1 = e_CV.sum(1, keepdims=True)
        own_C1 = jnp.take_along_axis(scores_CV, cut(target).reshape(-1, 1), axis=1)
        # A tie is a miss, as in `ranking`: a model that gives all classes one score is right nowhere.
        best_C = (jnp.sum(scores_CV >= own_C1, axis=1) == 1).astype(jnp.float32)
        mean, outer, share = done.mean_BLD, done.outer_DV, done.share_V
        # Rounded to z's type, so that both factors of the products below have one; they still add up in f32.
        low = e_CV.astype(z.dtype)
        if towards_z:
            mean_CD = jnp.matmul(low, classes_VD, preferred_element_type=jnp.float32)
            # Divided behind the product: that is C x D divisions instead of C x V.
            mean = put(mean, mean_CD / total_C1)
        if towards_classes:
            weight_C1 = cut(weight).reshape(-1, 1)
            part_C1 = weight_C1 / total_C1
            if parts == 1:
                scaled_CD = (z_CD * part_C1).astype(z.dtype)
                outer = outer + jnp.matmul(scaled_CD.T, low, preferred_element_type=jnp.float32)
                if bias_V is not None:
                    share = share + (e_CV * part_C1).sum(0)
            else:
                is_target_CV = jnp.arange(classes)[None] == cut(target).reshape(-1, 1)
                slope_CV = e_CV * part_C1 - jnp.where(is_target_CV, weight_C1, 0)
                outer = outer + jnp.einsum(
                    "scd,scv->sdv", by_part(z_CD), by_part(slope_CV.astype(z.dtype)),
                    preferred_element_type=jnp.float32,
                )  # fmt: skip
                if bias_V is not None:
                    share = share + by_part(slope_CV).sum(1)
        log_z_C = (top_C1 + jnp.log(total_C1))[:, 0]
        return Pass(
            put(done.log_z_BL, log_z_C), put(done.own_BL, own_C1[:, 0]),
            put(done.best_BL, best_C), mean, outer, share,
        )  # fmt: skip

    none = jnp.zeros((rows, length + spare), jnp.float32)
    start = Pass(
        none, none, none,
        jnp.zeros((rows, length + spare, width), jnp.float32) if towards_z else None,
        # [D, V]: the product is faster this way round
        _no_sums(parts, width, classes) if towards_classes else None,
        _no_sums(parts, classes) if towards_classes and bias_V is not None else None,
    )  # fmt: skip
    # How far the loop runs depends on the data. Such a loop has no reverse-mode derivative of its own, which is one
    # more reason for the custom one above.
    weighs_L = (weight != 0).any(0)
    last = jnp.max(jnp.where(weighs_L, jnp.arange(1, length + spare + 1), 0))
    done = jax.lax.fori_loop(0, -(-last // piece), one, start)
    short = lambda x: None if x is None else x[:, :length]
    whole = lambda sums: sums if sums is None or parts == 1 else sums.sum(0)
    return Pass(*map(short, done[:4]), whole(done.outer_DV), whole(done.share_V))


def _no_sums(parts: int, *sizes: int) -> Array:
    """Zeros, once for each part of the rows where there are several: added up over all of them, devices would meet at
    every chunk."""
    if parts == 1:
        return jnp.zeros(sizes, jnp.float32)
    return meshes.put(jnp.zeros((parts, *sizes), jnp.float32), "sums")

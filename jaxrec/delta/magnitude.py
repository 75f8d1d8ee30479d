"""Floor 1: DoRA's magnitudes (Liu 2024): how long the columns of a changed matrix are, without making that matrix.

    |W + s a b|_f^2 = |W|_f^2 + 2 s sum_r (W^T a)_fr b_rf + s^2 sum_rq b_rf (a^T a)_rq b_qf

So a row of a batch costs R passes of one vector through W, and no [B, D, F] kernel is ever made. As in section 4.3 of
the paper the length is a constant to the gradient.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxrec.structs import Delta, Lora


def column_norms(w: Any) -> Float[Array, " F"]:
    """The length of each output column of a kernel [D, F], f32; of a quantised one, which has `.rows()` [F, D]."""
    return jnp.sqrt(_column_squares(w))


def column_gain(w: Any, lora: Lora) -> Float[Array, "_ F"]:
    """DoRA's factor |W| (1 + magnitude) / |W + s a b| for each row and output column of one layer, f32.

    `w`: a kernel [D, F] or a quantised one with `.matmul(x)` and `.rows()`. The leaves of `lora` are without N.
    """
    a_BDR, b_BRF = lora.a_NBDR.astype(jnp.float32), lora.b_NBRF.astype(jnp.float32)
    rows, d, rank = a_BDR.shape
    scale_B1 = lora.scale_NB.astype(jnp.float32)[:, None]
    # The columns of all rows' a go through the matrix in one product, for which a quantised one is unpacked once.
    a_XD = a_BDR.swapaxes(1, 2).reshape(rows * rank, d)
    wa_XF = w.matmul(a_XD) if hasattr(w, "matmul") else a_XD @ w.astype(jnp.float32)
    cross_BF = (wa_XF.reshape(rows, rank, -1) * b_BRF).sum(1)
    gram_BRR = jnp.einsum("bdr,bdq->brq", a_BDR, a_BDR)
    own_BF = (jnp.einsum("brq,bqf->brf", gram_BRR, b_BRF) * b_BRF).sum(1)
    frozen_F = _column_squares(w)[None]
    moved_BF = frozen_F + 2 * scale_B1 * cross_BF + scale_B1**2 * own_BF
    alive = moved_BF > 0  # a column of zeros keeps its length
    ratio_BF = jnp.where(alive, jnp.sqrt(frozen_F / jnp.where(alive, moved_BF, 1.0)), 1.0)
    return jax.lax.stop_gradient(ratio_BF) * (1 + lora.magnitude_NBF.astype(jnp.float32))


def settle(delta: Delta, params: PyTree, path_of: Callable[[str], Sequence[str]]) -> Delta:
    """The Delta with every DoRA's factor computed once, for decoding with it; it can't be trained or saved any more.

    `params` are those of the model, `path_of(site)` is a site's path inside a stack (`Decoder.path_of`). Without it a
    DoRA measures its matrix anew at every decoded token. A Delta without DoRA comes back as it is.
    """

    def settled(stack: str, site: str, lora: Lora) -> Lora:
        if lora.magnitude_NBF is None:
            return lora
        kernel = params[stack]
        for part in (*path_of(site), "kernel"):
            kernel = kernel[part]
        # A layer at a time: the temporaries of one matrix exist at once, not those of all layers.
        gain_NBF = jax.lax.map(lambda layer: column_gain(*layer), (kernel, lora))
        return lora.replace(gain_NBF=gain_NBF, magnitude_NBF=None)

    stacks = {
        name: stack.replace(lora={s: settled(name, s, x) for s, x in stack.lora.items()})
        if stack.lora
        else stack
        for name, stack in delta.stacks.items()
    }
    return delta.replace(stacks=stacks)


def _column_squares(w: Any) -> Float[Array, " F"]:
    if hasattr(w, "rows"):
        # A quantised kernel lies transposed, its output columns are rows.
        return jnp.square(w.rows()).sum(-1)
    return jnp.square(w.astype(jnp.float32)).sum(0)

"""Floor 2: matrices in bfloat16 or int8 that stand in a kernel's place, for serving on CPUs.

    y = x w        `layers.dense` finds `.matmul`; the rest of the model neither knows nor cares

A short query reads every weight once for a dozen tokens, so bytes are time. Both kinds lie as [F, D]: XLA multiplies
low precision faster by rows of what comes out. Nothing here is meant to be trained.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8, PyTree

from jaxrec.nn.stack import every_layer, recut

_BY_ROWS = (((1,), (1,)), ((), ()))  # x [B, D] with w [F, D]


@flax.struct.dataclass
class HalfKernel:
    """A kernel in bfloat16; sums are kept in float32."""

    w_FD: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """[D, F], as of the kernel that it replaces."""
        return (*self.w_FD.shape[:-2], self.w_FD.shape[-1], self.w_FD.shape[-2])

    def matmul(self, x: Float[Array, "*b D"]) -> Float[Array, "*b F"]:
        """x w, of x's type."""
        x_BD = x.reshape(-1, x.shape[-1]).astype(jnp.bfloat16)
        y_BF = jax.lax.dot_general(x_BD, self.w_FD, _BY_ROWS, preferred_element_type=jnp.float32)
        return y_BF.astype(x.dtype).reshape(*x.shape[:-1], -1)


@flax.struct.dataclass
class Int8Kernel:
    """A kernel in int8 with one scale for each output; inputs are rounded to int8 too, with one scale for each row.

    (Dettmers et al., NeurIPS 2022, without their outlier columns.)
    """

    w_FD: Array
    scale_F: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """[D, F], as of the kernel that it replaces."""
        return (*self.w_FD.shape[:-2], self.w_FD.shape[-1], self.w_FD.shape[-2])

    def matmul(self, x: Float[Array, "*b D"]) -> Float[Array, "*b F"]:
        """x w, of x's type."""
        x_BD, scale_B1 = _rounded(x.reshape(-1, x.shape[-1]).astype(jnp.float32))
        y_BF = jax.lax.dot_general(x_BD, self.w_FD, _BY_ROWS, preferred_element_type=jnp.int32)
        y_BF = y_BF.astype(jnp.float32) * scale_B1 * self.scale_F[None]
        return y_BF.astype(x.dtype).reshape(*x.shape[:-1], -1)


KERNELS = {
    "bfloat16": lambda w_FD: HalfKernel(w_FD.astype(jnp.bfloat16)),
    "int8": lambda w_FD: Int8Kernel(
        *(x.squeeze(-1) if i else x for i, x in enumerate(_rounded(w_FD)))
    ),
}


def for_serving(cfg, params: PyTree, weights: str) -> tuple[object, PyTree]:
    """An encoder's (config, params) with every layer a stack of its own and its kernels in `weights`.

    weights: bfloat16 or int8. Tables (words, positions, norms, biases) stay as they are. Raises ValueError.
    """
    if weights not in KERNELS:
        raise ValueError(f"weights={weights!r}: choose one of {', '.join(KERNELS)}")
    single = dataclasses.replace(cfg, cuts=every_layer(cfg))
    make = jax.jit(lambda w: KERNELS[weights](w.swapaxes(-1, -2)))

    def replaced(path: tuple, leaf: Array) -> PyTree:
        return make(leaf) if path[-1].key == "kernel" else leaf

    return single, jax.tree_util.tree_map_with_path(replaced, recut(params, cfg, single))


def _rounded(x: Float[Array, "*b D"]) -> tuple[Int8[Array, "*b D"], Float[Array, "*b 1"]]:
    """x as int8 and the scale of each row."""
    scale = jnp.maximum(jnp.abs(x).max(-1, keepdims=True), 1e-12) / 127
    return jnp.round(x / scale).astype(jnp.int8), scale

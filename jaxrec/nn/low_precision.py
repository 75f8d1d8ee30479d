"""Floor 2: kernels in bfloat16 that stand in a float32 kernel's place, for serving on CPUs.

    y = x w        `layers.dense` finds `.matmul`; the rest of the model neither knows nor cares

A short query reads every weight once for a dozen tokens, so bytes are time. (int8 weights with inputs rounded row by
row took as long here, and moved one in twenty of the ten nearest neighbours: docs/search.md.)
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxrec.nn.stack import every_layer, recut

KINDS = ("float32", "bfloat16")
_BY_ROWS = (((1,), (1,)), ((), ()))  # x [B, D] with w [F, D]


@flax.struct.dataclass
class HalfKernel:
    """A kernel in bfloat16, inputs rounded to it, sums kept in float32.

    It lies as [F, D]: XLA multiplies low precision faster by rows of what comes out.
    """

    w_FD: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """[D, F], as of the kernel that it replaces."""
        return (*self.w_FD.shape[:-2], self.w_FD.shape[-1], self.w_FD.shape[-2])

    def matmul(self, x: Float[Array, "*b D"]) -> Float[Array, "*b F"]:
        """x w, of x's type."""
        # Both sides in bfloat16: beside float32 inputs the kernel would be turned into float32 before the product,
        # and its bytes saved for nothing.
        x_BD = x.reshape(-1, x.shape[-1]).astype(jnp.bfloat16)
        y_BF = jax.lax.dot_general(x_BD, self.w_FD, _BY_ROWS, preferred_element_type=jnp.float32)
        return y_BF.astype(x.dtype).reshape(*x.shape[:-1], -1)


def for_serving(cfg: Any, params: PyTree, weights: str) -> tuple[Any, PyTree]:
    """(config, params) of a model with every layer a stack of its own and all kernels in `weights`.

    Tables, norms and biases stay as they are. Raises ValueError for a kind that is not in KINDS.
    """
    if weights not in KINDS:
        raise ValueError(f"weights={weights!r}: choose one of {', '.join(KINDS)}")
    # On a CPU a scan would copy each layer's weights out of the stack before they are read.
    single = dataclasses.replace(cfg, cuts=every_layer(cfg))
    params = recut(params, cfg, single)
    if weights == "float32":
        return single, params
    make = jax.jit(lambda w: HalfKernel(w.swapaxes(-1, -2).astype(jnp.bfloat16)))

    def replaced(path: tuple, leaf: Array) -> PyTree:
        return make(leaf) if path[-1].key == "kernel" else leaf

    return single, jax.tree_util.tree_map_with_path(replaced, params)

"""Floor 2: the pieces of a layer, each of which accepts its part of a `LayerDelta`.

`dense` is the one seam through which every matrix of a model is applied: a plain kernel or a quantised one, plus a
LoRA that may differ from row to row. Inside a scan over layers the leaves of a delta come *without* N: they lead
with B, or with 1 where all rows share them.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrec import mesh as meshes
from jaxrec.delta import column_gain
from jaxrec.nn.dropout import dropout
from jaxrec.structs import Adapter, Film, LayerDelta, Lora

ACTIVATIONS: dict[str, Callable] = {
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


def weight(
    module: nn.Module, name: str, shape: tuple[int, ...], init: Callable, by_row: bool = False
) -> Any:
    """The parameter `name` of a linen module: what was given to `apply`, or a new f32 array while initialising.

    Unlike `self.param` it lets any tree stand in an array's place (a quantised kernel), as long as what it calls
    its `shape` is right.

    Args:
      module: whose parameter it is, inside its `setup` or `__call__`.
      name: of the parameter.
      shape: what the module needs.
      init: (key, shape, dtype) -> the new array.
      by_row: it is a table, read by row; quantised, it calls itself by the shape of the kernel that multiplies.

    Raises ValueError on another shape.
    """
    if not module.has_variable("params", name):
        return module.param(name, init, shape, jnp.float32)
    value = module.get_variable("params", name)
    there = tuple(value.shape)
    there = there[::-1] if by_row and hasattr(value, "matmul") else there
    if there != tuple(shape):
        where = "/".join((*module.path, name))
        raise ValueError(f"parameter {where} has shape {there}, the model needs {tuple(shape)}")
    return value


# ------------------------------------------------------------------------------------------------ dense


def dense(
    x_BLD: Float[Array, "*b D"],
    w: Any,
    lora: Lora | None = None,
    bias_F: Float[Array, " F"] | None = None,
) -> Float[Array, "*b F"]:
    """x @ w + bias, plus the row's LoRA (Hu 2021): the one way in which a matrix of any model is applied.

    x is contracted with `a` first, so no [B, D, F] kernel is ever made; but a change that all rows share is added to
    the kernel where that is less work (`folded_product`). With a magnitude it is DoRA (Liu 2024): all but the bias is
    multiplied by the row's gain (`delta.column_gain`).

    Args:
      x_BLD: vectors, [B, L, D] where there is a LoRA.
      w: a kernel [D, F], or a quantised tree that has `.matmul(x)`.
      lora: `a` and `b` of each row, or of all.
      bias_F: added to the result.
    """
    if lora is not None and _folds(x_BLD, w, lora):
        # The scale, alpha / rank, is a setting and not a weight. It is a leaf because layers and rows may differ in it.
        scale = jax.lax.stop_gradient(lora.scale_NB)[0]
        y = folded_product(x_BLD.reshape(-1, w.shape[0]), w, lora.a_NBDR[0] * scale, lora.b_NBRF[0])
        y = y.reshape(*x_BLD.shape[:-1], w.shape[1])
        return y if bias_F is None else y + bias_F.reshape((1,) * (y.ndim - 1) + (-1,))
    y = w.matmul(x_BLD) if hasattr(w, "matmul") else product(x_BLD, w.astype(x_BLD.dtype))
    if lora is not None and (lora.magnitude_NBF is not None or lora.gain_NBF is not None):
        gain_BF = column_gain(w, lora) if lora.gain_NBF is None else lora.gain_NBF
        y, lora = (y + low_rank(x_BLD, lora)) * gain_BF[:, None, :].astype(y.dtype), None
    if bias_F is not None:
        y = y + bias_F.astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))
    return y if lora is None else y + low_rank(x_BLD, lora)


def product(x: Float[Array, "*b D"], w_DF: Float[Array, "D F"]) -> Float[Array, "*b F"]:
    """x @ w over all leading axes as one: XLA on a CPU makes of `[B, L, D] @ [D, F]`, and more so of its gradients,
    far slower code than of `[B L, D] @ [D, F]` (a fifth of a LoRA step)."""
    return (x.reshape(-1, x.shape[-1]) @ w_DF).reshape(*x.shape[:-1], w_DF.shape[-1])


def _folds(x_BLD: Array, w: Any, lora: Lora) -> bool:
    """Whether W + a b is less work than (x a) b, and as good: bfloat16 would round a small change away."""
    plain = lora.magnitude_NBF is None and lora.gain_NBF is None and lora.dropout is None
    if not plain or hasattr(w, "matmul") or lora.a_NBDR.shape[0] != 1:
        return False
    if not x_BLD.dtype == w.dtype == lora.a_NBDR.dtype == jnp.float32:
        return False
    tokens, (into, out) = x_BLD.size // x_BLD.shape[-1], w.shape
    # Folding leaves out two thin products of a step, T R (D + F) together, and makes a b in both passes, 2 R D F.
    # The rank cancels.
    return tokens * (into + out) > 2 * into * out


@jax.custom_vjp
def folded_product(
    x_TD: Float[Array, "T D"],
    w_DF: Float[Array, "D F"],
    a_DR: Float[Array, "D R"],
    b_RF: Float[Array, "R F"],
) -> Float[Array, "T F"]:
    """x (W + a b). Of the six thin products with x's and y's many rows in a step, two are left out, and W + a b is
    made again in the backward pass rather than kept.

    Args:
      x_TD: vectors of all tokens.
      w_DF: the frozen kernel.
      a_DR, b_RF: of a LoRA that all rows share, its scale in one of them.
    """
    return x_TD @ (w_DF + a_DR @ b_RF)


def _folded_forward(x_TD: Array, w_DF: Array, a_DR: Array, b_RF: Array) -> tuple[Array, tuple]:
    return folded_product(x_TD, w_DF, a_DR, b_RF), (x_TD, w_DF, a_DR, b_RF)


def _folded_backward(kept: tuple, dy_TF: Array) -> tuple[Array, Array, Array, Array]:
    x_TD, w_DF, a_DR, b_RF = kept
    dx_TD = dy_TF @ (w_DF + a_DR @ b_RF).T
    # [R, T] @ [T, D], not its transpose: on a CPU the tall thin result costs twice as much
    da_DR = ((dy_TF @ b_RF.T).T @ x_TD).T
    db_RF = (x_TD @ a_DR).T @ dy_TF
    # A custom rule must give the kernel's gradient too; where the kernel is frozen, the compiler drops the product.
    return dx_TD, x_TD.T @ dy_TF, da_DR, db_RF


folded_product.defvjp(_folded_forward, _folded_backward)


def low_rank(x_BLD: Float[Array, "B L D"], lora: Lora) -> Float[Array, "B L F"]:
    """((x a) b) * scale, `a` and `b` per row, or one for all rows. While training x may be dropped in part first."""
    if lora.dropout is not None:
        x_BLD = dropout(x_BLD, lora.dropout.rate, lora.dropout.key_NB, lora.dropout.site)
    a_BDR, b_BRF = lora.a_NBDR.astype(x_BLD.dtype), lora.b_NBRF.astype(x_BLD.dtype)
    scale_B11 = jax.lax.stop_gradient(lora.scale_NB).astype(x_BLD.dtype)[:, None, None]
    # The scale meets the [T, R] vectors between the two products, the smallest array that it could multiply.
    if a_BDR.shape[0] == 1:  # shared: two plain matmuls are faster than a batch of small ones
        return product(product(x_BLD, a_BDR[0]) * scale_B11, b_BRF[0])
    return jnp.einsum("blr,brf->blf", jnp.einsum("bld,bdr->blr", x_BLD, a_BDR) * scale_B11, b_BRF)


class Dense(nn.Module):
    """One matrix of a model (`kernel` [D, F], `bias` [F] by option) at a named site of the delta."""

    features: int
    use_bias: bool = False
    init_std: float = 0.02
    kernel_init: Callable | None = None  # instead of a normal distribution of `init_std`

    @nn.compact
    def __call__(self, x: Array, delta: LayerDelta | None = None, site: str | None = None) -> Array:
        init = self.kernel_init or nn.initializers.normal(self.init_std)
        kernel = weight(self, "kernel", (x.shape[-1], self.features), init)
        zeros = nn.initializers.zeros_init()
        bias = weight(self, "bias", (self.features,), zeros) if self.use_bias else None
        y = dense(x, kernel, change_at(delta, "lora", site), bias)
        scale_BF = change_at(delta, "scale", site)
        return y if scale_BF is None else rescale(y, scale_BF)


def change_at(delta: LayerDelta | None, kind: str, site: str | None) -> Any:
    """The change of one kind at one site, or None. `kind` is a field of LayerDelta."""
    changes = None if delta is None else getattr(delta, kind)
    return None if changes is None else changes.get(site)


def rescale(y_BLF: Float[Array, "B L F"], scale_BF: Float[Array, "_ F"]) -> Float[Array, "B L F"]:
    """IA3 (Liu 2022) as an offset: y * (1 + s), so that zero is the identity."""
    return y_BLF * (1 + scale_BF[:, None, :]).astype(y_BLF.dtype)


def adapt(y_BLD: Float[Array, "B L D"], adapter: Adapter | None) -> Float[Array, "B L D"]:
    """y + gelu(y down + down_bias) up + up_bias, the bottleneck after a sublayer (Houlsby 2019)."""
    if adapter is None:
        return y_BLD
    d, bd, u, bu = (
        x.astype(y_BLD.dtype)
        for x in (adapter.down_NBDA, adapter.down_bias_NBA, adapter.up_NBAD, adapter.up_bias_NBD)
    )
    if d.shape[0] == 1:
        h_BLA = jax.nn.gelu(product(y_BLD, d[0]) + bd[:, None, :])
        return y_BLD + product(h_BLA, u[0]) + bu[:, None, :]
    h_BLA = jax.nn.gelu(jnp.einsum("bld,bda->bla", y_BLD, d) + bd[:, None, :])
    return y_BLD + jnp.einsum("bla,bad->bld", h_BLA, u) + bu[:, None, :]


# ------------------------------------------------------------------------------------------------ norm, mlp


class Norm(nn.Module):
    """RMSNorm ("rms", or "rms_offset": scaled by 1 + w) or LayerNorm ("layer") over the last axis, in f32, then the
    row's FiLM."""

    kind: str = "rms"
    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: Array, film: Film | None = None) -> Array:
        size = (x.shape[-1],)
        # [D] against [..., D]: rank promotion is made explicit by the reshape
        wide = lambda v: v.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + size)
        offset = self.kind == "rms_offset"
        begin = nn.initializers.zeros_init() if offset else nn.initializers.ones_init()
        scale = wide(weight(self, "scale", size, begin))
        scale = 1 + scale if offset else scale
        # squares of 16-bit numbers overflow or vanish: both norms (Zhang 2019, Ba 2016) are taken in f32
        y = x.astype(jnp.float32)
        if self.kind == "layer":
            y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps) * scale
        if self.kind == "layer":
            y = y + wide(weight(self, "bias", size, nn.initializers.zeros_init()))
        if film is not None:
            # FiLM (Perez 2018): a row's own scale and shift where the model has one for all
            y = y * (1 + film.gamma_NBD[:, None, :]) + film.beta_NBD[:, None, :]
        return y.astype(x.dtype)


class Mlp(nn.Module):
    """down(act(gate x) * up x) when gated, else down(act(up x)); sites `gate`, `up`, `down`.

    What `down` reads can be scaled too, at the site `hidden`: there IA3 has its third vector.
    """

    d_ff: int
    gated: bool = True
    activation: str = "silu"
    use_bias: bool = False
    init_std: float = 0.02
    out_std: float = 0.02

    @nn.compact
    def __call__(self, x_BLD: Array, delta: LayerDelta | None = None) -> Array:
        # gated: half of the hidden layer decides how much of the other half passes (GLU, Shazeer 2020)
        act = ACTIVATIONS[self.activation]
        into = lambda site: Dense(self.d_ff, self.use_bias, self.init_std, name=site)(
            x_BLD, delta, site
        )
        h_BLF = act(into("gate")) * into("up") if self.gated else act(into("up"))
        h_BLF = meshes.put(h_BLF, "hidden")
        scale_BF = change_at(delta, "scale", "hidden")
        h_BLF = h_BLF if scale_BF is None else rescale(h_BLF, scale_BF)
        return Dense(x_BLD.shape[-1], self.use_bias, self.out_std, name="down")(
            h_BLF, delta, "down"
        )

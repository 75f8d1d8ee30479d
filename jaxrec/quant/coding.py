"""Floor 1: from floats to codes: the nearest value of the kind, block by block or output by output."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrec.quant.kinds import BLOCK, NF4, OUTER, Int8, Nf4, QuantError, check_kind, dynamic_map


def quantise(kernel: Any, kind: str) -> Nf4 | Int8:
    """A float kernel [*, D, F] in 4 or 8 bits. Raises QuantError on an unknown kind and values that are not finite."""
    check_kind(kind)
    if len(np.shape(kernel)) < 2:
        raise QuantError(f"only matrices are quantised, not an array of shape {np.shape(kernel)}")
    return quantise_rows(jnp.swapaxes(jnp.asarray(kernel), -1, -2), kind)


def quantise_rows(w: Any, kind: str) -> Nf4 | Int8:
    """As `quantise`, of a matrix that lies transposed [*, F, D], as checkpoints hold it."""
    if check_kind(kind) == "int8":
        code, scale = _to_int8(w)
        _check_finite(np.asarray(scale))
        return Int8(code, scale)
    code, peak = _to_nf4(w)
    scale, outer, mean = _compress(np.asarray(peak))
    parts = [jnp.asarray(x) for x in (scale, spread(outer, peak.shape[-2:]), mean)]
    return Nf4(code, *parts, width=w.shape[-1])


@jax.jit
def _to_nf4(w: Float[Array, "*n F D"]) -> tuple[Array, Array]:
    """(code, the largest magnitude of each block)."""
    empty = [(0, 0)] * (w.ndim - 1) + [(0, -w.shape[-1] % BLOCK)]
    blocks = jnp.pad(w, empty).reshape(*w.shape[:-1], -1, BLOCK).astype(jnp.float32)
    peak = jnp.abs(blocks).max(-1)
    scaled = blocks * (1 / jnp.where(peak == 0, 1, peak))[..., None]
    code = jnp.zeros(blocks.shape, jnp.uint8)
    # The nearest of 16 values is the count of middles below: 15 comparisons, where a search or a table of distances
    # would make an array 16 times as large.
    for value in _middles(np.array(NF4, np.float32)):
        code += (scaled > value).astype(jnp.uint8)
    # Weights j and j + 32 share a byte, so unpacking gives two runs side by side and nothing is interleaved.
    packed = (code[..., : BLOCK // 2] << 4) | code[..., BLOCK // 2 :]
    return packed.reshape(*w.shape[:-1], -1), peak


@jax.jit
def _to_int8(w: Float[Array, "*n F D"]) -> tuple[Array, Array]:
    w = w.astype(jnp.float32)
    peak = jnp.abs(w).max(-1, keepdims=True)
    # Symmetric, without -128: the product needs no zero point.
    code = jnp.round(w * (127 / jnp.where(peak == 0, 1, peak)))
    return code.astype(jnp.int8), peak / 127


def _middles(values: np.ndarray) -> np.ndarray:
    return (values[:-1] + values[1:]) / np.float32(2)


def _compress(peak: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(8-bit scales [*, F, K], a float for each 256 of them [*, ceil(F K / 256)], their mean [*])."""
    _check_finite(peak)
    lead, size = peak.shape[:-2], peak.shape[-2] * peak.shape[-1]
    flat = peak.reshape(-1, size)
    # bitsandbytes subtracts the mean before it quantises the scales, because they are all positive (QLoRA, Dettmers
    # 2023, section 3, double quantisation). f64, so that the order of summation does not show.
    mean = flat.mean(-1, dtype=np.float64).astype(np.float32)
    away = np.pad(flat - mean[:, None], ((0, 0), (0, -size % OUTER)))
    away = away.reshape(len(flat), -1, OUTER)
    outer = np.abs(away).max(-1)
    scaled = away * (np.float32(1) / np.where(outer == 0, np.float32(1), outer))[..., None]
    code = np.searchsorted(_middles(dynamic_map()), scaled).astype(np.uint8)
    code = code.reshape(len(flat), -1)[:, :size]
    return code.reshape(peak.shape), outer.reshape(*lead, -1), mean.reshape(lead)


def spread(outer: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The outer scales [*, X] by row [*, F, J]: the most blocks of a row that surely share one are K / J."""
    return np.ascontiguousarray(outer[..., _owners(*size)])


def _owners(rows: int, blocks: int) -> np.ndarray:
    shared = math.gcd(blocks, OUTER)
    first = np.arange(rows)[:, None] * blocks + np.arange(0, blocks, shared)[None]
    return first // OUTER


def gather(outer: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`spread` undone."""
    _, first = np.unique(_owners(*size), return_index=True)
    return outer.reshape(*outer.shape[:-2], -1)[..., first]


def _check_finite(peak: np.ndarray) -> None:
    if not np.isfinite(peak).all():
        raise QuantError("a weight is not finite (NaN or infinity): it cannot be quantised")

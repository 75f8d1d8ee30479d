"""Floor 1: the kinds of small weight: from floats to codes, back, and how it is multiplied."""

import functools
import math
from typing import Any

import flax.struct as struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from jaxrec.config import RunError
from jaxrec.structs import Leaf

BLOCK, OUTER = 64, 256  # weights that share a scale; scales that share a float
# Quantiles of the standard normal scaled to [-1, 1], with an exact zero: the values published with QLoRA.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
_ROWS = (((1,), (1,)), ((), ()))  # x [B, D] with w [F, D]
_COLUMNS = (((1,), (0,)), ((), ()))  # y [B, F] with w [F, D]


class QuantError(RunError, ValueError):
    """A weight that cannot be quantised, a kind that is not known, or codes that were asked to train."""


@struct.dataclass
class Nf4:
    """A kernel [*, D, F] in 4 bits. Of a byte of the code, the upper half is of a block's first 32 weights."""

    code_NFC: Leaf  # uint8; C is half of D, filled up to whole blocks
    scale_NFK: Leaf  # uint8, one for each block
    outer_NFJ: Leaf  # f32, the outer scale of each 256 blocks, repeated so that none is shared between rows
    mean_N: Leaf  # f32, of all scales of a matrix
    width: int = struct.field(pytree_node=False)  # D
    gathered: Any = struct.field(pytree_node=False, default=None)  # see `place`

    @property
    def shape(self) -> tuple[int, ...]:
        """[*, D, F], as of the kernel that it replaces."""
        *lead, rows, _ = self.code_NFC.shape
        return (*lead, self.width, rows)

    def rows(self, dtype: Any = jnp.float32) -> Float[Array, "*n F D"]:
        """The matrix as floats, transposed."""
        blocks = self.code_NFC.reshape(*self.scale_NFK.shape, BLOCK // 2)
        # the two halves side by side: a table of 16 read by selects, three times faster on CPUs than by a gather
        value = jnp.concatenate([_nf4_values(blocks >> 4), _nf4_values(blocks & 15)], axis=-1)
        w = (value * self._scales()[..., None]).reshape(*self.code_NFC.shape[:-1], -1)
        return w[..., : self.width].astype(dtype)

    def _scales(self) -> Float[Array, "*n F K"]:
        outer = self.outer_NFJ
        shared = self.scale_NFK.shape[-1] // outer.shape[-1]
        value = jnp.take(jnp.asarray(dynamic_map()), self.scale_NFK, axis=0, mode="clip")
        outer = jnp.broadcast_to(outer[..., None], (*outer.shape, shared)).reshape(value.shape)
        return value * outer + self.mean_N[..., None, None]

    def matmul(self, x: Float[Array, "*b D"]) -> Float[Array, "*b F"]:
        """x w, of x's type. Raises QuantError where a gradient of the code is asked for."""
        return _multiply(x, self)

    def take(self, ids: Int[Array, "*b"]) -> Float[Array, "*b D"]:
        """The vectors of these ids, of a table that is quantised as the kernel [D, V] it is multiplied as."""
        at = lambda x: jnp.take(x, ids.reshape(-1), axis=0)
        parts = at(self.code_NFC), at(self.scale_NFK), at(self.outer_NFJ)
        return Nf4(*parts, self.mean_N, self.width).rows().reshape(*ids.shape, -1)


@struct.dataclass
class Int8:
    """A kernel [*, D, F] in 8 bits: code * scale, with a scale for each output."""

    code_NFD: Leaf  # int8
    scale_NF1: Leaf  # f32
    gathered: Any = struct.field(pytree_node=False, default=None)  # see `place`

    @property
    def shape(self) -> tuple[int, ...]:
        """[*, D, F], as of the kernel that it replaces."""
        *lead, rows, width = self.code_NFD.shape
        return (*lead, width, rows)

    def rows(self, dtype: Any = jnp.float32) -> Float[Array, "*n F D"]:
        """The matrix as floats, transposed."""
        return (self.code_NFD.astype(jnp.float32) * self.scale_NF1).astype(dtype)

    def matmul(self, x: Float[Array, "*b D"]) -> Float[Array, "*b F"]:
        """x w, of x's type. Raises QuantError where a gradient of the code is asked for."""
        return _multiply(x, self)

    def take(self, ids: Int[Array, "*b"]) -> Float[Array, "*b D"]:
        """The vectors of these ids, of a table that is quantised as the kernel [D, V] it is multiplied as."""
        at = lambda x: jnp.take(x, ids, axis=0)
        return Int8(at(self.code_NFD), at(self.scale_NF1)).rows()


@struct.dataclass
class Bf16:
    """A kernel [*, D, F] in bfloat16 that is multiplied in bfloat16 as well, its products summed in float32."""

    code_NFD: Leaf  # bfloat16
    gathered: Any = struct.field(pytree_node=False, default=None)  # see `place`

    @property
    def shape(self) -> tuple[int, ...]:
        """[*, D, F], as of the kernel that it replaces."""
        *lead, rows, width = self.code_NFD.shape
        return (*lead, width, rows)

    def rows(self, dtype: Any = jnp.float32) -> Float[Array, "*n F D"]:
        """The matrix as floats, transposed."""
        return self.code_NFD.astype(dtype)

    def matmul(self, x: Float[Array, "*b D"]) -> Float[Array, "*b F"]:
        """x w, of x's type. Raises QuantError where a gradient of the code is asked for."""
        return _multiply(x, self)

    def take(self, ids: Int[Array, "*b"]) -> Float[Array, "*b D"]:
        """The vectors of these ids, of a table that is kept as the kernel [D, V] it is multiplied as."""
        return Bf16(jnp.take(self.code_NFD, ids, axis=0)).rows()


KIND_OF = {"nf4": Nf4, "int8": Int8, "bf16": Bf16}
KINDS = tuple(KIND_OF)


def check_kind(kind: str) -> str:
    """The kind itself. Raises QuantError when it is not one of KINDS."""
    if kind not in KINDS:
        raise QuantError(f"quantisation {kind!r} is not known: choose one of {', '.join(KINDS)}")
    return kind


@jax.custom_vjp
def _multiply(x: Any, w: Any) -> Any:
    flat = x.reshape(-1, x.shape[-1])
    y = _product(flat, _together(w), _ROWS)
    return y.reshape(*x.shape[:-1], -1)


def _product(x: Any, w: Any, sides: Any) -> Any:
    """Of vectors [B, D or F] with the matrix, of their type."""
    if not isinstance(w, Bf16):
        return jax.lax.dot_general(x, w.rows(x.dtype), sides)
    # Both factors short, the sum long: what processors with products of bfloat16 do at twice the speed.
    short = x.astype(jnp.bfloat16)
    y = jax.lax.dot_general(short, w.code_NFD, sides, preferred_element_type=jnp.float32)
    return y.astype(x.dtype)


def _forward(x: Any, w: Any) -> tuple[Any, Any]:
    if any(leaf.perturbed for leaf in jax.tree.leaves(w)):
        raise QuantError(
            "a gradient was asked for quantised weights, which have none: train a Delta (LoRA, ...) on"
            " them, or load the model unquantised to train it whole"
        )
    w = jax.tree.map(lambda leaf: leaf.value, w)
    return _multiply(x.value, w), w  # the codes are kept for the way back, never a float kernel


def _backward(w: Any, y_bar: Any) -> tuple[Any, None]:
    if isinstance(y_bar, jax.custom_derivatives.SymbolicZero):
        # symbolic_zeros hands over a marker where nothing flows back; the product needs an array.
        y_bar = jnp.zeros(y_bar.shape, y_bar.dtype)
    flat = y_bar.reshape(-1, y_bar.shape[-1])
    # Unpacked again instead of kept: a float kernel held for the backward pass would undo what was saved.
    x_bar = _product(flat, _together(w), _COLUMNS)
    return x_bar.reshape(*y_bar.shape[:-1], -1), None


def _together(w: Any) -> Any:
    """The weight with its codes where they are multiplied: left alone, the compiler gathers the floats made of them."""
    if w.gathered is None:
        return w
    gather = lambda x: jax.lax.with_sharding_constraint(x, w.gathered) if x.ndim == 2 else x
    return jax.tree.map(gather, w)


_multiply.defvjp(_forward, _backward, symbolic_zeros=True)


def _nf4_values(code: UInt8[Array, "*n"]) -> Float[Array, "*n"]:
    """NF4[code], by its bits: four rounds of selects."""
    values: list[Any] = [jnp.float32(value) for value in NF4]
    for bit in range(4):
        odd = (code >> bit) & 1 != 0
        values = [jnp.where(odd, b, a) for a, b in zip(values[::2], values[1::2], strict=True)]
    return values[0]


@functools.cache
def dynamic_map() -> np.ndarray:
    """The 256 values of the 8-bit dynamic data type (Dettmers 2015), rising: for scales.

    Sign, then a unary exponent of ten from -6 to 0, then what bits are left: the middles of as many equal parts
    of [0.1, 1]. 0 and 1 fill the two places that remain.
    """
    values = [0.0, 1.0]
    for exponent in range(7):
        edges = _line(0.1, 1.0, 2**exponent + 1)
        middle = (edges[:-1] + edges[1:]) / np.float32(2)
        power = 10.0 ** (exponent - 6)
        part = middle * np.float32(power)
        values += [*part.tolist(), *(-part).tolist()]
    return np.sort(np.array(values, np.float32))


def _line(low: float, high: float, count: int) -> np.ndarray:
    """`count` equal steps, from the nearer end, rounded to f32 once: so torch does, and bits depend on it."""
    low, high = np.float32(low), np.float32(high)
    step, i = np.float64((high - low) / np.float32(count - 1)), np.arange(count)
    line = np.where(i < count // 2, low + step * i, high - step * (count - 1 - i))
    return line.astype(np.float32)


# ------------------------------------------------------------------------------------------ floats to codes
# The nearest value of the kind, block by block or output by output.


def quantise(kernel: Any, kind: str) -> Nf4 | Int8 | Bf16:
    """A float kernel [*, D, F] in 4, 8 or 16 bits; of a `jax.ShapeDtypeStruct` the shapes of that.

    Raises QuantError on an unknown kind and values that are not finite.
    """
    check_kind(kind)
    if len(np.shape(kernel)) < 2:
        raise QuantError(f"only matrices are quantised, not an array of shape {np.shape(kernel)}")
    if isinstance(kernel, jax.ShapeDtypeStruct):
        *lead, d, f = kernel.shape
        return quantise_rows(jax.ShapeDtypeStruct((*lead, f, d), kernel.dtype), kind)
    return quantise_rows(jnp.swapaxes(jnp.asarray(kernel), -1, -2), kind)


def quantise_rows(w: Any, kind: str) -> Nf4 | Int8 | Bf16:
    """As `quantise`, of a matrix that lies transposed [*, F, D], as checkpoints hold it."""
    if isinstance(w, jax.ShapeDtypeStruct):
        return _shapes(w, kind)
    if check_kind(kind) == "int8":
        code, scale = _to_int8(w)
        _check_finite(np.asarray(scale))
        return Int8(code, scale)
    if kind == "bf16":
        code = jnp.asarray(w).astype(jnp.bfloat16)
        _check_finite(np.asarray(jnp.abs(code).max(), np.float32))
        return Bf16(code)
    code, peak = _to_nf4(w)
    scale, outer, mean = _compress(np.asarray(peak))
    parts = [jnp.asarray(x) for x in (scale, spread(outer, peak.shape[-2:]), mean)]
    return Nf4(code, *parts, width=w.shape[-1])


def _shapes(w: jax.ShapeDtypeStruct, kind: str) -> Nf4 | Int8 | Bf16:
    """The shapes of `quantise_rows`, without a number computed."""
    like = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype)
    if check_kind(kind) == "int8":
        return Int8(like(w.shape, np.int8), like((*w.shape[:-1], 1), np.float32))
    if kind == "bf16":
        return Bf16(like(w.shape, jnp.bfloat16))
    *lead, rows, width = w.shape
    blocks = -(-width // BLOCK)
    outer = (*lead, rows, _owners(1, blocks).shape[1])
    parts = [
        like((*lead, rows, blocks * BLOCK // 2), np.uint8),
        like((*lead, rows, blocks), np.uint8),
        like(outer, np.float32),
        like(tuple(lead), np.float32),
    ]
    return Nf4(*parts, width=width)


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

"""Floor 1: weights in 4 and 8 bits that stand in a float kernel's place.

    Nf4     4-bit NormalFloat with double quantisation (QLoRA, Dettmers 2023), 0.52 bytes a parameter
    Int8    8 bits with one scale for each output

`layers.dense` finds `.matmul`; the rest of a model neither knows nor cares. A matrix becomes floats where it is
multiplied, one matrix of one layer at a time, and once more in the backward pass: what is kept for that is the code.
The gradient flows to x alone.

NF4 lies as [N, F, D/2]: blocks of 64 along D share a scale, so a shard of either axis falls on the edge of a block.
The scales (one for 64 weights) are themselves 8-bit numbers around their mean, with a float for each 256 of them in
the order of the matrix's rows. Where 64 divides D, code and scales are those of bitsandbytes, bit for bit; a D that it
does not divide is filled up with zeros, so that blocks begin anew in each row (there they would run on into the next).
"""

import functools
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.struct as struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, PyTree, UInt8

from jaxrec import checkpoint
from jaxrec import mesh as meshes
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
_KERNELS = r"(^|/)stack_\d+/(.*/)?kernel"
_ROWS = (((1,), (1,)), ((), ()))  # x [B, D] with w [F, D]
_COLUMNS = (((1,), (0,)), ((), ()))  # y [B, F] with w [F, D]


class QuantError(RunError, ValueError):
    """A weight that cannot be quantised, a kind that is not known, or codes that were asked to train."""


# ------------------------------------------------------------------------------------------------ the two kinds


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


_KIND_OF = {"nf4": Nf4, "int8": Int8}
KINDS = tuple(_KIND_OF)


def check_kind(kind: str) -> str:
    """The kind itself. Raises QuantError when it is not one of KINDS."""
    if kind not in KINDS:
        raise QuantError(f"quantisation {kind!r} is not known: choose one of {', '.join(KINDS)}")
    return kind


@jax.custom_vjp
def _multiply(x: Any, w: Any) -> Any:
    flat = x.reshape(-1, x.shape[-1])
    y = jax.lax.dot_general(flat, _together(w).rows(x.dtype), _ROWS)
    return y.reshape(*x.shape[:-1], -1)


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
        y_bar = jnp.zeros(y_bar.shape, y_bar.dtype)
    flat = y_bar.reshape(-1, y_bar.shape[-1])
    x_bar = jax.lax.dot_general(flat, _together(w).rows(y_bar.dtype), _COLUMNS)
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


# ------------------------------------------------------------------------------------------------ quantising


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
    parts = [jnp.asarray(x) for x in (scale, _spread(outer, peak.shape[-2:]), mean)]
    return Nf4(code, *parts, width=w.shape[-1])


@jax.jit
def _to_nf4(w: Float[Array, "*n F D"]) -> tuple[Array, Array]:
    """(code, the largest magnitude of each block)."""
    empty = [(0, 0)] * (w.ndim - 1) + [(0, -w.shape[-1] % BLOCK)]
    blocks = jnp.pad(w, empty).reshape(*w.shape[:-1], -1, BLOCK).astype(jnp.float32)
    peak = jnp.abs(blocks).max(-1)
    scaled = blocks * (1 / jnp.where(peak == 0, 1, peak))[..., None]
    code = jnp.zeros(blocks.shape, jnp.uint8)
    for value in _middles(np.array(NF4, np.float32)):
        code += (scaled > value).astype(jnp.uint8)
    packed = (code[..., : BLOCK // 2] << 4) | code[..., BLOCK // 2 :]
    return packed.reshape(*w.shape[:-1], -1), peak


@jax.jit
def _to_int8(w: Float[Array, "*n F D"]) -> tuple[Array, Array]:
    w = w.astype(jnp.float32)
    peak = jnp.abs(w).max(-1, keepdims=True)
    code = jnp.round(w * (127 / jnp.where(peak == 0, 1, peak)))
    return code.astype(jnp.int8), peak / 127


def _middles(values: np.ndarray) -> np.ndarray:
    return (values[:-1] + values[1:]) / np.float32(2)


def _compress(peak: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(8-bit scales [*, F, K], a float for each 256 of them [*, ceil(F K / 256)], their mean [*])."""
    _check_finite(peak)
    lead, size = peak.shape[:-2], peak.shape[-2] * peak.shape[-1]
    flat = peak.reshape(-1, size)
    mean = flat.mean(-1, dtype=np.float64).astype(np.float32)
    away = np.pad(flat - mean[:, None], ((0, 0), (0, -size % OUTER)))
    away = away.reshape(len(flat), -1, OUTER)
    outer = np.abs(away).max(-1)
    scaled = away * (np.float32(1) / np.where(outer == 0, np.float32(1), outer))[..., None]
    code = np.searchsorted(_middles(dynamic_map()), scaled).astype(np.uint8)
    code = code.reshape(len(flat), -1)[:, :size]
    return code.reshape(peak.shape), outer.reshape(*lead, -1), mean.reshape(lead)


def _spread(outer: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The outer scales [*, X] by row [*, F, J]: the most blocks of a row that surely share one are K / J."""
    return np.ascontiguousarray(outer[..., _owners(*size)])


def _owners(rows: int, blocks: int) -> np.ndarray:
    shared = math.gcd(blocks, OUTER)
    first = np.arange(rows)[:, None] * blocks + np.arange(0, blocks, shared)[None]
    return first // OUTER


def _gather(outer: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`_spread` undone."""
    _, first = np.unique(_owners(*size), return_index=True)
    return outer.reshape(*outer.shape[:-2], -1)[..., first]


def _check_finite(peak: np.ndarray) -> None:
    if not np.isfinite(peak).all():
        raise QuantError("a weight is not finite (NaN or infinity): it cannot be quantised")


# ------------------------------------------------------------------------------------------------ trees


def is_quantised(leaf: Any) -> bool:
    """Whether this is a quantised kernel."""
    return isinstance(leaf, tuple(_KIND_OF.values()))


def to_quantise(path: str, head: bool = False) -> bool:
    """Whether the parameter at this path is quantised: the kernels of the layers, by option that of the head.

    Tables, norms and biases stay as they are, and so does what stands beside a backbone.
    """
    return bool(re.fullmatch(_KERNELS, path)) or (head and path.endswith("head/kernel"))


def quantise_params(params: PyTree, kind: str = "nf4", head: bool = False) -> PyTree:
    """Parameters with their kernels quantised, those that `to_quantise` names. Raises QuantError as `quantise`."""
    check_kind(kind)

    def replaced(keys: tuple, leaf: Any) -> Any:
        path = meshes.path_of(keys)
        if is_quantised(leaf) or not to_quantise(path, head):
            return leaf
        try:
            return quantise(leaf, kind)
        except QuantError as error:
            raise QuantError(f"{path}: {error}") from error

    return jax.tree_util.tree_map_with_path(replaced, params, is_leaf=is_quantised)


def place(mesh: Mesh, params: PyTree, rules: meshes.Rules = meshes.RULES) -> PyTree:
    """`meshes.place` of a tree with quantised weights, each of which then knows how its code lies when multiplied.

    That is the rules' layout without `fsdp`: codes are gathered along it, an eighth of what floats would be.
    """

    def informed(keys: tuple, w: Any) -> Any:
        if not is_quantised(w):
            return w
        code = jax.tree.leaves(w)[0]
        name = f"{meshes.path_of(keys)}/code_"
        spec = meshes.spec_for(mesh, name, code.shape, rules)
        last = (*spec, *(None,) * (code.ndim - len(spec)))[-2:]
        return w.replace(
            gathered=NamedSharding(mesh, P(*(None if x == "fsdp" else x for x in last)))
        )

    params = jax.tree_util.tree_map_with_path(informed, params, is_leaf=is_quantised)
    return meshes.place(mesh, params, rules)


def whole(params: PyTree, dtype: Any = jnp.float32) -> PyTree:
    """Parameters with float kernels again, as the codes say them: to merge a Delta into, or to save for others."""
    float_kernel = lambda w: jnp.swapaxes(w.rows(dtype), -1, -2)
    return jax.tree.map(
        lambda x: float_kernel(x) if is_quantised(x) else x, params, is_leaf=is_quantised
    )


def kinds_in(params: PyTree) -> set[str]:
    """The kinds of quantisation found in a tree."""
    leaves = jax.tree.leaves(params, is_leaf=is_quantised)
    return {kind for kind, form in _KIND_OF.items() for x in leaves if isinstance(x, form)}


def refuse_training(params: PyTree) -> None:
    """Raises QuantError naming the first quantised weight among parameters that are to be trained."""
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_quantised)
    for keys, leaf in leaves:
        if is_quantised(leaf):
            raise QuantError(
                f"{meshes.path_of(keys)} is quantised and cannot be trained: train a Delta (LoRA, ...) on the"
                " frozen weights, or load the model unquantised to train it whole"
            )


def size_bytes(params: PyTree) -> int:
    """Bytes of all arrays of a tree, as they lie in memory."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))


def parameters(params: PyTree) -> int:
    """Numbers of a model: of a quantised kernel, those that it stands for."""
    leaves = jax.tree.leaves(params, is_leaf=is_quantised)
    return sum(math.prod(x.shape) for x in leaves)


# ------------------------------------------------------------------------------------------------ on disk


def save(folder: str | Path, params: PyTree, facts: Mapping[str, Any] | None = None) -> None:
    """`checkpoint.save_params` of a tree with quantised weights; NF4 takes 0.516 bytes a parameter there."""
    checkpoint.save_params(folder, _map_quantised(_packed, params), facts)


def load(
    folder: str | Path, mesh: Mesh | None = None, rules: meshes.Rules = meshes.RULES
) -> PyTree:
    """What `save` wrote, placed on `mesh` by the rules if one is given. Raises CheckpointError if it can't be read."""

    def unpacked(tree: Any) -> Any:
        if not isinstance(tree, Mapping):
            return jnp.asarray(tree)
        if set(tree) == {"int8"}:
            return Int8(*(jnp.asarray(tree["int8"][name]) for name in ("code", "scale")))
        if set(tree) == {"nf4"}:
            x = tree["nf4"]
            outer = _spread(np.asarray(x["outer"]), x["scale"].shape[-2:])
            parts = [jnp.asarray(part) for part in (x["code"], x["scale"], outer, x["mean"])]
            return Nf4(*parts, width=int(x["width"]))
        return {name: unpacked(part) for name, part in tree.items()}

    params = unpacked(checkpoint.load_params(folder))
    return params if mesh is None else place(mesh, params, rules)


def _packed(w: Nf4 | Int8) -> dict[str, dict[str, Any]]:
    if isinstance(w, Int8):
        return {"int8": {"code": w.code_NFD, "scale": w.scale_NF1}}
    outer = _gather(np.asarray(w.outer_NFJ), w.scale_NFK.shape[-2:])
    parts = {"code": w.code_NFC, "scale": w.scale_NFK, "mean": w.mean_N}
    return {"nf4": parts | {"outer": outer, "width": np.int32(w.width)}}


def _map_quantised(fn: Callable, params: PyTree) -> PyTree:
    return jax.tree.map(lambda x: fn(x) if is_quantised(x) else x, params, is_leaf=is_quantised)

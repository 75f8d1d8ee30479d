"""Floor 1: quantised weights among the parameters of a model: which are, where they lie, how many numbers, on disk."""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from jaxrec import checkpoint
from jaxrec import mesh as meshes
from jaxrec.quant.kinds import (
    KIND_OF,
    Bf16,
    Int8,
    Nf4,
    QuantError,
    check_kind,
    gather,
    quantise,
    quantise_rows,
    spread,
)

# The matrices of a layer, whoever owns it: a backbone's `stack_0/attn/q/kernel`, a head's `layer_1/cross/o/kernel`.
KERNELS = r"(.*/)?(stack|layer)_\d+/(.*/)?kernel"
_SHOWN = 4  # paths that an error names


def is_quantised(leaf: Any) -> bool:
    """Whether this is a quantised kernel."""
    return isinstance(leaf, tuple(KIND_OF.values()))


def to_quantise(path: str, head: bool = False, table: bool = False, kernels: str = KERNELS) -> bool:
    """Whether the parameter at this path is quantised.

    Norms, biases and what stands beside the layers (an LFE, a hypernetwork) stay as they are.

    Args:
      path: of the parameter, its keys joined by "/".
      head: whether the output head's kernel is quantised too.
      table: whether the table of token vectors is quantised too.
      kernels: full-match pattern over paths of the matrices that are.
    """
    return bool(
        re.fullmatch(kernels, path)
        or (head and re.search(r"(^|/)head/kernel$", path))
        or (table and re.search(r"(^|/)embed/table$", path))
    )


def quantise_params(
    params: PyTree,
    kind: str = "nf4",
    head: bool = False,
    table: bool = False,
    kernels: str = KERNELS,
) -> PyTree:
    """Parameters with their kernels quantised, those that `to_quantise` names; what is quantised already stays so.

    Args:
      params: of any module whose matrices go through `nn.layers.dense`, or a tree of several.
      kind: one of KINDS.
      head, table, kernels: as of `to_quantise`.

    Raises QuantError as `quantise`, and where no path matches: a model that was to be small and is not must say so.
    """
    check_kind(kind)
    hits = []

    def replaced(keys: tuple, leaf: Any) -> Any:
        path = meshes.path_of(keys)
        if not to_quantise(path, head, table, kernels):
            return leaf
        hits.append(path)
        if is_quantised(leaf):
            return leaf
        try:
            # a table lies as checkpoints hold a kernel, [V, D]: read by row, multiplied by its transpose
            return (quantise_rows if path.endswith("table") else quantise)(leaf, kind)
        except QuantError as error:
            raise QuantError(f"{path}: {error}") from error

    # is_leaf: a quantised weight is a tree itself, whose codes would otherwise be met one by one.
    small = jax.tree_util.tree_map_with_path(replaced, params, is_leaf=is_quantised)
    if not hits:
        raise QuantError(_nothing_matches(params, kernels))
    return small


def _nothing_matches(params: PyTree, kernels: str) -> str:
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_quantised)
    names = [meshes.path_of(keys) for keys, _ in leaves]
    matrices = [name for name in names if name.endswith("kernel")] or names
    more = f" and {len(matrices) - _SHOWN} more" if len(matrices) > _SHOWN else ""
    there = f"there are {', '.join(matrices[:_SHOWN])}{more}" if names else "there are none at all"
    return f"nothing to quantise: no parameter's path matches {kernels!r}; {there}"


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
        # A sharding is part of the weight and not of the call: `dense` knows no mesh.
        return w.replace(
            gathered=NamedSharding(mesh, P(*(None if x == "fsdp" else x for x in last)))
        )

    params = jax.tree_util.tree_map_with_path(informed, params, is_leaf=is_quantised)
    return meshes.place(mesh, params, rules)


def whole(params: PyTree, dtype: Any = jnp.float32) -> PyTree:
    """Parameters with float kernels again, as the codes say them: to merge a Delta into, or to save for others."""

    def floats(keys: tuple, w: Any) -> Any:
        if not is_quantised(w):
            return w
        by_row = meshes.path_of(keys).endswith("table")
        return w.rows(dtype) if by_row else jnp.swapaxes(w.rows(dtype), -1, -2)

    return jax.tree_util.tree_map_with_path(floats, params, is_leaf=is_quantised)


def kinds_in(params: PyTree) -> set[str]:
    """The kinds of quantisation found in a tree."""
    leaves = jax.tree.leaves(params, is_leaf=is_quantised)
    return {kind for kind, form in KIND_OF.items() for x in leaves if isinstance(x, form)}


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
    checkpoint.save_params(folder, _map_quantised(pack, params), facts)


def load(
    folder: str | Path, mesh: Mesh | None = None, rules: meshes.Rules = meshes.RULES
) -> PyTree:
    """What `save` wrote, placed on `mesh` by the rules if one is given. Raises CheckpointError if it can't be read."""

    def unpacked(tree: Any) -> Any:
        if not isinstance(tree, Mapping):
            return jnp.asarray(tree)
        if set(tree) == {"int8"}:
            return Int8(*(jnp.asarray(tree["int8"][name]) for name in ("code", "scale")))
        if set(tree) == {"bf16"}:
            return Bf16(jnp.asarray(tree["bf16"]["code"]))
        if set(tree) == {"nf4"}:
            x = tree["nf4"]
            outer = spread(np.asarray(x["outer"]), x["scale"].shape[-2:])
            parts = [jnp.asarray(part) for part in (x["code"], x["scale"], outer, x["mean"])]
            return Nf4(*parts, width=int(x["width"]))
        return {name: unpacked(part) for name, part in tree.items()}

    params = unpacked(checkpoint.load_params(folder))
    return params if mesh is None else place(mesh, params, rules)


def pack(w: Nf4 | Int8 | Bf16) -> dict[str, dict[str, Any]]:
    """A quantised weight as arrays by name, with nothing in it twice: what `save` writes."""
    if isinstance(w, Int8):
        return {"int8": {"code": w.code_NFD, "scale": w.scale_NF1}}
    if isinstance(w, Bf16):
        return {"bf16": {"code": w.code_NFD}}
    # In memory outer scales are repeated so that no two rows share one; on disk each lies once.
    outer = gather(np.asarray(w.outer_NFJ), w.scale_NFK.shape[-2:])
    parts = {"code": w.code_NFC, "scale": w.scale_NFK, "mean": w.mean_N}
    return {"nf4": parts | {"outer": outer, "width": np.int32(w.width)}}


def _map_quantised(fn: Callable, params: PyTree) -> PyTree:
    return jax.tree.map(lambda x: fn(x) if is_quantised(x) else x, params, is_leaf=is_quantised)

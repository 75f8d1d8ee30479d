"""Floor 1: quantised weights on disk, beside those that are not."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from jaxrec import checkpoint
from jaxrec import mesh as meshes
from jaxrec.quant.coding import gather, spread
from jaxrec.quant.kinds import Int8, Nf4
from jaxrec.quant.trees import is_quantised, place


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
        if set(tree) == {"nf4"}:
            x = tree["nf4"]
            outer = spread(np.asarray(x["outer"]), x["scale"].shape[-2:])
            parts = [jnp.asarray(part) for part in (x["code"], x["scale"], outer, x["mean"])]
            return Nf4(*parts, width=int(x["width"]))
        return {name: unpacked(part) for name, part in tree.items()}

    params = unpacked(checkpoint.load_params(folder))
    return params if mesh is None else place(mesh, params, rules)


def pack(w: Nf4 | Int8) -> dict[str, dict[str, Any]]:
    """A quantised weight as arrays by name, with nothing in it twice: what `save` writes."""
    if isinstance(w, Int8):
        return {"int8": {"code": w.code_NFD, "scale": w.scale_NF1}}
    # In memory outer scales are repeated so that no two rows share one; on disk each lies once.
    outer = gather(np.asarray(w.outer_NFJ), w.scale_NFK.shape[-2:])
    parts = {"code": w.code_NFC, "scale": w.scale_NFK, "mean": w.mean_N}
    return {"nf4": parts | {"outer": outer, "width": np.int32(w.width)}}


def _map_quantised(fn: Callable, params: PyTree) -> PyTree:
    return jax.tree.map(lambda x: fn(x) if is_quantised(x) else x, params, is_leaf=is_quantised)

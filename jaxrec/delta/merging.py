"""Floor 1: a delta folded into the weights: the plain model then costs nothing more, and can be exported."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxrec.structs import Delta, LayerDelta, LazyLayerDelta, Lora

_READER = {"hidden": "down"}  # sites that scale what a matrix reads, by that matrix
_MERGED = ("lora", "scale")


def merge(kernel_NDF: Float[Array, "N D F"], lora: Lora) -> Float[Array, "N D F"]:
    """The kernel with one tenant's LoRA (rsLoRA, DoRA) folded in.

    Raises ValueError when the LoRA holds more than one row: a kernel can be only one tenant's; and for a quantised
    kernel.
    """
    _refuse_quantised(kernel_NDF)
    _one_row(lora.a_NBDR)
    change = jnp.einsum("ndr,nrf->ndf", lora.a_NBDR[:, 0], lora.b_NBRF[:, 0])
    moved = kernel_NDF + change * lora.scale_NB[:, 0, None, None]
    if lora.gain_NBF is not None:
        moved = moved * lora.gain_NBF[:, :1]
    elif lora.magnitude_NBF is not None:
        length = lambda w: jnp.linalg.norm(w.astype(jnp.float32), axis=1, keepdims=True)
        frozen, now = length(kernel_NDF), length(moved)
        ratio = jnp.where(now > 0, frozen / jnp.where(now > 0, now, 1.0), 1.0)
        moved = moved * ratio * (1 + lora.magnitude_NBF[:, :1])
    # Deltas are f32, so the sum is made in f32 and rounded to the kernel's type once.
    return moved.astype(kernel_NDF.dtype)


def merge_params(params: PyTree, delta: Delta, path_of: Callable[[str], Sequence[str]]) -> PyTree:
    """A model's params with one tenant's LoRA, rsLoRA, DoRA and IA3 folded in, and the head's LoRA.

    `path_of(site)` is the site's path inside a stack (`Decoder.path_of`). Raises ValueError when the delta holds more
    than one row, or a kind that is not a change of a kernel, and for quantised kernels and tied heads.
    """
    for name, stack in delta.stacks.items():
        kinds = _kinds(stack)
        if not set(kinds) <= set(_MERGED):
            raise ValueError(
                f"only LoRA and IA3 can be merged into weights; {name} also has {kinds}"
            )
    outer = delta.outer
    if outer.prompt_BPD is not None or outer.embed_BD is not None:
        raise ValueError("a delta with a soft prompt or an embedding offset cannot be merged")

    for name, stack in delta.stacks.items():
        at = lambda site, name=name: [name, *path_of(_READER.get(site, site))]
        for site, lora in (stack.lora or {}).items():
            fold = lambda w, lora=lora: {**w, "kernel": merge(w["kernel"], lora)}
            params = _replaced(params, at(site), fold)
        for site, scale_NBF in (stack.scale or {}).items():
            fold = lambda w, s=scale_NBF, reads=site in _READER: _scaled(w, s, reads)
            params = _replaced(params, at(site), fold)
    if outer.head is not None:
        # A tied head is the embedding transposed: folded into it, the LoRA would change what the model reads as
        # well.
        if "head" not in params:
            raise ValueError("the head is tied to the embedding: a LoRA on it cannot be merged")
        leading = jax.tree.map(lambda x: x[None], outer.head)
        fold = lambda w: {**w, "kernel": merge(w["kernel"][None], leading)[0]}
        params = _replaced(params, ["head"], fold)
    return params


def _kinds(stack: LayerDelta | LazyLayerDelta) -> list[str]:
    if isinstance(stack, LazyLayerDelta):
        raise ValueError("a lazy delta cannot be merged; materialise() it first")
    return [kind for kind, sites in vars(stack).items() if sites]


def _scaled(w: Mapping[str, Any], scale_NBF: Any, reads: bool) -> dict[str, Any]:
    """IA3 in a matrix's parameters: its inputs when the site is what it reads, else its outputs with their bias."""
    _refuse_quantised(w["kernel"])
    _one_row(scale_NBF)
    factor_NF = 1 + scale_NBF[:, 0]
    wide = factor_NF[:, :, None] if reads else factor_NF[:, None, :]
    scaled = {"kernel": w["kernel"] * wide}
    # (s x) W + b leaves the bias alone, s (x W + b) does not.
    if "bias" in w and not reads:
        scaled["bias"] = w["bias"] * factor_NF
    return {name: scaled.get(name, x).astype(x.dtype) for name, x in w.items()}


def _replaced(tree: Mapping[str, Any], path: Sequence[str], fn: Callable) -> dict[str, Any]:
    first, *rest = path
    return {**tree, first: _replaced(tree[first], rest, fn) if rest else fn(tree[first])}


def _one_row(leaf: Any) -> None:
    if leaf.shape[1] != 1:
        raise ValueError(f"merge one tenant at a time; this delta holds {leaf.shape[1]} rows")


def _refuse_quantised(kernel: Any) -> None:
    if hasattr(kernel, "matmul"):
        raise ValueError(
            f"a delta cannot be merged into a quantised kernel ({type(kernel).__name__}); use quant.whole(params) first"
        )

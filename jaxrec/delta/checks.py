"""Floor 1: whether a delta fits a model, and how large it is."""

import dataclasses

import jax
from jaxtyping import PyTree

from jaxrec.delta.algebra import by_rows
from jaxrec.delta.layout import whole_stack
from jaxrec.sites import Sites
from jaxrec.structs import (
    Adapter,
    AttnBias,
    Delta,
    Film,
    LayerDelta,
    LazyLayerDelta,
    Lora,
    Prefix,
)


def check(delta: Delta, sites: Sites) -> None:
    """Raises ValueError naming the first stack, kind, site or size of `delta` that the model does not have."""
    for name, stack in delta.stacks.items():
        if name not in sites.stacks:
            raise ValueError(f"the model has no stack {name!r}; it has {sorted(sites.stacks)}")
        if isinstance(stack, LazyLayerDelta):
            stack = jax.eval_shape(whole_stack, stack)
        own = sites.stacks[name]
        for kind in dataclasses.fields(LayerDelta):
            known = getattr(own, kind.name)
            for site, change in (getattr(stack, kind.name) or {}).items():
                if site not in known:
                    raise ValueError(
                        f"{name} has no {kind.name} site {site!r}; it has {sorted(known)}"
                    )
                _check_sizes(f"{name} {kind.name} {site}", change, own.n_layers, known[site])
    for name, width in (("prompt_BPD", sites.d_model), ("embed_BD", sites.d_model)):
        x = getattr(delta.outer, name)
        if x is not None and x.shape[-1] != width:
            raise ValueError(f"{name} has width {x.shape[-1]}, the model {width}")
    if delta.outer.head is not None:
        a, b = delta.outer.head.a_NBDR, delta.outer.head.b_NBRF
        if (a.shape[-2], b.shape[-1]) != (sites.d_model, sites.vocab):
            made, wanted = f"{a.shape[-2]}x{b.shape[-1]}", f"{sites.d_model}x{sites.vocab}"
            raise ValueError(f"head LoRA is for {made}, the model has {wanted}")


def _check_sizes(where: str, change: PyTree, n_layers: int, size) -> None:
    first = jax.tree.leaves(change)[0]
    if first.shape[0] != n_layers:
        raise ValueError(f"{where}: made for {first.shape[0]} layers, the stack has {n_layers}")
    if isinstance(change, Lora):
        found, want = (change.a_NBDR.shape[-2], change.b_NBRF.shape[-1]), tuple(size)
        if change.magnitude_NBF is not None:
            found, want = (*found, change.magnitude_NBF.shape[-1]), (*want, want[-1])
    elif isinstance(change, Adapter):
        found, want = change.down_NBDA.shape[-2], size
    elif isinstance(change, Prefix):
        found, want = tuple(change.k_NBPGK.shape[-2:]), tuple(size)[1:]
        if change.gate_NBH is not None:
            found, want = (change.gate_NBH.shape[-1], *found), tuple(size)
    elif isinstance(change, Film):
        found, want = change.gamma_NBD.shape[-1], size
    elif isinstance(change, AttnBias):
        found, want = first.shape[-2], size
    else:
        found, want = change.shape[-1], size
    if found != want:
        raise ValueError(f"{where}: sized {found}, the model has {want}")


def count(delta: PyTree) -> int:
    """Numbers in one row (one tenant's) of a delta."""
    rows = batch_size(delta)
    return sum(x.size for x in jax.tree.leaves(delta)) // rows


def size_bytes(delta: PyTree) -> int:
    """Bytes of one row (one tenant's) of a delta."""
    rows = batch_size(delta)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(delta)) // rows


def batch_size(delta: Delta) -> int:
    """How many rows (tenants) a materialised delta holds. Raises ValueError when its leaves disagree."""
    sizes: set[int] = set()
    by_rows(lambda x, axis: sizes.add(x.shape[axis]), delta)
    if len(sizes) != 1:
        raise ValueError(f"a delta's leaves hold different numbers of rows: {sorted(sizes)}")
    return sizes.pop()

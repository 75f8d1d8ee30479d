"""Floor 1: the algebra of deltas: rows of a bank, parts, sums; whether one fits a model, and how large it is."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

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
    OuterDelta,
    Prefix,
)


def take(delta: Delta, index_B: Int[Array, " B"]) -> Delta:
    """Rows of a bank of deltas: one for each row of a batch, repeats welcome."""
    return by_rows(lambda x, axis: jnp.take(x, index_B, axis=axis), delta)


def bank(deltas: Sequence[Delta]) -> Delta:
    """Deltas of the same layout, one after another along their rows."""
    layouts = {str(jax.tree.structure(d)) for d in deltas}
    if len(layouts) > 1:
        raise ValueError(
            f"{len(deltas)} deltas of {len(layouts)} different layouts cannot share a bank"
        )
    return by_rows(lambda *x: jnp.concatenate(x[:-1], axis=x[-1]), *deltas)


def by_rows(fn: Callable, *deltas: Delta) -> Delta:
    """Map over leaves with the position of their row axis as last argument: 1 behind N, else 0.

    Raises ValueError for a lazy delta.
    """
    if any(isinstance(x, LazyLayerDelta) for d in deltas for x in d.stacks.values()):
        raise ValueError(
            "a lazy delta has no rows of its own; materialise() it, or index p instead"
        )
    # Leaves in stacks lead with the layers, so that a scan can slice them; rows come second there, and first in
    # `outer`.
    stacks = jax.tree.map(lambda *x: fn(*x, 1), *[d.stacks for d in deltas])
    outer = jax.tree.map(lambda *x: fn(*x, 0), *[d.outer for d in deltas])
    return Delta(stacks, outer)


def scale(delta: Delta, factor: float | Float[Array, ""]) -> Delta:
    """`factor` times the change: 0 is the identity, 1 the delta itself.

    Exact for LoRA, FiLM, IA3 and attention bias; for adapters the added term is scaled, for a prefix its gate, for
    DoRA its LoRA and its magnitude. Raises ValueError for a soft prompt and for a prefix without a gate (there is no
    half of one), and for a settled DoRA.
    """
    if delta.outer.prompt_BPD is not None:
        raise ValueError(
            "a soft prompt cannot be scaled; drop it with delta.outer.replace(prompt_BPD=None)"
        )
    if any(isinstance(s, LazyLayerDelta) for s in delta.stacks.values()):
        raise ValueError("a lazy delta cannot be scaled; materialise() it first")
    prefixes = [p for s in delta.stacks.values() for p in (s.prefix or {}).values()]
    if any(p.gate_NBH is None for p in prefixes):
        raise ValueError("a prefix without a gate cannot be scaled; make it with prefix_gate=True")
    _refuse_settled(delta)
    # The factor goes into the last thing that is multiplied in (b of a LoRA, up of an adapter): the added term is
    # linear in that. In both factors it would come out squared.
    scaled = ("b_", "up_", "gate_", "gamma_", "beta_", "distance_", "segment_", "embed_")
    scaled += ("magnitude_",)

    def leaf(path, x):
        last = path[-1]
        name = getattr(last, "name", "")
        in_scale = any(getattr(p, "name", None) == "scale" for p in path)  # IA3
        return x * factor if name.startswith(scaled) or in_scale else x

    return jax.tree_util.tree_map_with_path(leaf, delta)


def add(first: Delta, second: Delta) -> Delta:
    """Both changes at once. LoRAs are joined along their rank, so that the sum is exact; offsets are added.

    Raises ValueError where a sum does not exist (two adapters, prefixes or soft prompts on one site, a DoRA and
    another LoRA on one site).
    """
    stacks = dict(first.stacks)
    for name, other in second.stacks.items():
        stacks[name] = _add_layers(stacks[name], other) if name in stacks else other
    a, b = first.outer, second.outer
    if a.prompt_BPD is not None and b.prompt_BPD is not None:
        raise ValueError("two soft prompts cannot be added; concatenate them along P instead")
    outer = OuterDelta(
        prompt_BPD=a.prompt_BPD if b.prompt_BPD is None else b.prompt_BPD,
        embed_BD=_plus(a.embed_BD, b.embed_BD),
        head=_join(a.head, b.head),
    )
    return Delta(stacks, outer)


def _refuse_settled(delta: Delta) -> None:
    loras = [x for s in delta.stacks.values() for x in (s.lora or {}).values()]
    # The gain was computed for the change as it was, and would not belong to another one.
    if any(x.gain_NBF is not None for x in loras):
        raise ValueError("a settled DoRA cannot be changed any more; change it before settle()")


def _plus(a, b):
    if a is None or b is None:
        return b if a is None else a
    return a + b


def _join(a: Lora | None, b: Lora | None) -> Lora | None:
    if a is None or b is None:
        return b if a is None else a
    if any(x.magnitude_NBF is not None or x.gain_NBF is not None for x in (a, b)):
        raise ValueError("a DoRA and another LoRA on one site have no sum: merge one of them first")
    # each scale goes into its own b: the joined LoRA has scale 1
    scaled = [x.b_NBRF * x.scale_NB[..., None, None] for x in (a, b)]
    # Side by side, (a1 a2) (b1; b2) = a1 b1 + a2 b2: exact, where a sum of the factors would mix them.
    joined = jnp.concatenate([a.a_NBDR, b.a_NBDR], axis=-1)
    return Lora(joined, jnp.concatenate(scaled, axis=-2), jnp.ones_like(a.scale_NB))


def _add_layers(a: LayerDelta, b: LayerDelta) -> LayerDelta:
    def union(kind, plus):
        x, y = getattr(a, kind) or {}, getattr(b, kind) or {}
        both = {site: plus(x[site], y[site]) for site in x if site in y}
        # None and not an empty dict: that is how a kind of change is absent, and the two differ as pytrees.
        return {**x, **y, **both} or None

    def refuse(*_):
        raise ValueError(
            "two adapters or prefixes on one site have no sum; stack them in one delta instead"
        )

    added = lambda x, y: jax.tree.map(jnp.add, x, y)
    # (1 + s)(1 + t) = 1 + (s + t + st); conditional norms compose likewise, the second applied after the first
    composed = lambda s, t: s + t + s * t
    film = lambda x, y: Film(
        composed(x.gamma_NBD, y.gamma_NBD), x.beta_NBD * (1 + y.gamma_NBD) + y.beta_NBD
    )
    return LayerDelta(
        lora=union("lora", _join),
        adapter=union("adapter", refuse),
        prefix=union("prefix", refuse),
        norm=union("norm", film),
        scale=union("scale", composed),
        attn_bias=union("attn_bias", added),
    )


def check(delta: Delta, sites: Sites) -> None:
    """Raises ValueError naming the first stack, kind, site or size of `delta` that the model does not have."""
    for name, stack in delta.stacks.items():
        if name not in sites.stacks:
            raise ValueError(f"the model has no stack {name!r}; it has {sorted(sites.stacks)}")
        if isinstance(stack, LazyLayerDelta):
            # Sizes are all that is asked here, so the hypernetwork is traced and never run.
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

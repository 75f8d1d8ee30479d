"""Floor 1: the layout of deltas: their shapes, how they start, how their layers are cut, what they drop in training."""

import re
import zlib
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PRNGKeyArray

from jaxrec.delta.config import DeltaConfig, DeltaError
from jaxrec.sites import Sites, StackSites
from jaxrec.structs import (
    Adapter,
    AttnBias,
    Delta,
    Film,
    LayerDelta,
    LazyLayerDelta,
    Lora,
    LoraDropout,
    OuterDelta,
    Prefix,
)


def shapes(sites: Sites, cfg: DeltaConfig, batch: int = 1) -> Delta:
    """The Delta that `cfg` asks of a model with these sites, as `jax.ShapeDtypeStruct`s (f32).

    Raises DeltaError when `cfg` is empty or a pattern of it matches no site or no stack.
    """
    if cfg.empty:
        raise DeltaError(
            "this DeltaConfig names no kind of change; set one, e.g. lora_rank=8 or norm=True"
        )
    stacks = {
        name: _stack_shapes(stack, cfg, batch)
        for name, stack in _pick(sites.stacks, cfg.stacks, "stack").items()
    }
    s = _leaf
    head = None
    if cfg.head_rank:
        r = cfg.head_rank
        head = Lora(s(batch, sites.d_model, r), s(batch, r, sites.vocab), s(batch))
    outer = OuterDelta(
        prompt_BPD=s(batch, cfg.prompt_length, sites.d_model) if cfg.prompt_length else None,
        embed_BD=s(batch, sites.d_model) if cfg.embed else None,
        head=head,
    )
    has_layers = any(jax.tree.leaves(x) for x in stacks.values())
    return Delta(stacks=stacks if has_layers else {}, outer=outer)


def _stack_shapes(sites: StackSites, cfg: DeltaConfig, b: int) -> LayerDelta:
    n, r, a, p = sites.n_layers, cfg.lora_rank, cfg.adapter_size, cfg.prefix_length
    s, kinds = _leaf, {}
    if r:
        kinds["lora"] = {
            site: Lora(s(n, b, d, r), s(n, b, r, f), s(n, b), s(n, b, f) if cfg.lora_dora else None)
            for site, (d, f) in _pick(sites.lora, cfg.lora_sites, "LoRA site").items()
        }
    if a:
        kinds["adapter"] = {
            site: Adapter(s(n, b, d, a), s(n, b, a), s(n, b, a, d), s(n, b, d))
            for site, d in _pick(sites.adapter, cfg.adapter_sites, "adapter site").items()
        }
    if p:
        kinds["prefix"] = {
            site: Prefix(
                s(n, b, p, g, k), s(n, b, p, g, k), s(n, b, h) if cfg.prefix_gate else None
            )
            for site, (h, g, k) in sites.prefix.items()
        }
    if cfg.norm:
        kinds["norm"] = {site: Film(s(n, b, d), s(n, b, d)) for site, d in sites.norm.items()}
    if cfg.scale:
        chosen = _pick(sites.scale, cfg.scale_sites, "scale site")
        kinds["scale"] = {site: s(n, b, f) for site, f in chosen.items()}
    if cfg.attn_bias:
        kinds["attn_bias"] = {
            site: AttnBias(segment_NBHX=s(n, b, h, cfg.memory_segments))
            if site == "cross"
            else AttnBias(distance_NBHX=s(n, b, h, cfg.distance_buckets))
            for site, h in sites.attn_bias.items()
        }
    return LayerDelta(**kinds)


def _leaf(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _pick(known: Mapping, pattern: str, what: str) -> dict:
    chosen = {name: x for name, x in known.items() if re.fullmatch(pattern, name)}
    if not chosen:
        raise DeltaError(f"pattern {pattern!r} matches no {what}; there are {sorted(known)}")
    return chosen


# ------------------------------------------------------------------------------------------------ making


def zeros(sites: Sites, cfg: DeltaConfig, batch: int = 1) -> Delta:
    """A Delta of zeros: the identity for every kind but a soft prompt and a prefix without a gate, whose identity is
    to be absent."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes(sites, cfg, batch))


def init(key: PRNGKeyArray, sites: Sites, cfg: DeltaConfig, batch: int = 1) -> Delta:
    """A trainable Delta that is the identity at the start and has a gradient there.

    LoRA: `a` uniform He, `b` and DoRA's magnitude zero. Adapter: `down` normal 0.02, `up` zero. Prefix: keys and
    values normal 0.02, gate zero, so that it starts as the identity and its gate learns first. Soft prompt, and a
    prefix without a gate, normal 0.02: they are no identity. `scale_NB` is a constant of the layout: where a LoRA is
    applied no gradient flows into it.
    key: of the random numbers. sites: where the model can be changed (`Decoder.sites(cfg)`). cfg: which changes, and
    how large. batch: how many Deltas side by side, one a tenant (B of every leaf).
    """
    paths, tree = jax.tree_util.tree_flatten_with_path(shapes(sites, cfg, batch))
    keys = jax.random.split(key, len(paths))

    def leaf(key, path, x):
        name = path[-1].name if hasattr(path[-1], "name") else str(path[-1])
        if name.startswith("a_"):
            # Uniform between these bounds the variance is 1 / D, so x @ a is about as large as x.
            bound = (3.0 / x.shape[-2]) ** 0.5
            return jax.random.uniform(key, x.shape, x.dtype, -bound, bound)
        if name.startswith("scale_NB"):
            rank = cfg.head_rank if "outer" in jax.tree_util.keystr(path) else cfg.lora_rank
            return jnp.full(x.shape, cfg.scaling(rank), x.dtype)
        if name.startswith(("down_NBDA", "k_", "v_", "prompt_")):
            return 0.02 * jax.random.normal(key, x.shape, x.dtype)
        # Only the second factor of a product starts at zero: that is the identity, and the first factor gives it a
        # gradient. Were both zero, neither would ever move.
        return jnp.zeros(x.shape, x.dtype)

    return jax.tree.unflatten(tree, [leaf(k, p, x) for k, (p, x) in zip(keys, paths, strict=True)])


def materialise(delta: Delta) -> Delta:
    """Every lazy stack made at once: for serving caches and export, where the Delta outlives one forward pass."""
    return delta.replace(stacks={name: whole_stack(stack) for name, stack in delta.stacks.items()})


def whole_stack(stack: LayerDelta | LazyLayerDelta) -> LayerDelta:
    """One stack with all its layers made."""
    codes, make = stack.by_layer()
    return jax.vmap(make)(codes) if isinstance(stack, LazyLayerDelta) else stack


def restack(delta: Delta, source: Sequence[int], target: Sequence[int]) -> Delta:
    """The same Delta for the same layers cut into other stacks; `source` and `target` are layers per stack.

    Stacks that the Delta does not touch must not be mixed with stacks that it does: raises ValueError.
    """
    if sum(source) != sum(target):
        raise ValueError(f"{sum(source)} layers cannot become {sum(target)}: {source} -> {target}")
    if not delta.stacks:
        return delta
    layers: list[LayerDelta | None] = []
    for i, n in enumerate(source):
        stack = delta.stacks.get(f"stack_{i}")
        layers += [stack and jax.tree.map(lambda x, j=j: x[j : j + 1], stack) for j in range(n)]
    stacks, start = {}, 0
    for i, n in enumerate(target):
        own = layers[start : start + n]
        start += n
        if all(x is None for x in own):
            continue
        if any(x is None for x in own):
            raise ValueError(f"stack_{i} of {target} would hold layers with and without a delta")
        stacks[f"stack_{i}"] = jax.tree.map(lambda *x: jnp.concatenate(x), *own)
    return delta.replace(stacks=stacks)


# ---------------------------------------------------------------------------------------------- dropout


def with_dropout(delta: Delta, key_B: Key[Array, " B"], rate: float) -> Delta:
    """The Delta whose LoRAs drop entries of their input with probability `rate`, for one training step.

    `key_B`: one key for each row of the batch (the Delta may have one row for all). Every layer and site drops on its
    own, and what a row drops depends on nothing but its key. (peft drops for DoRA what its frozen matrix reads as well,
    a second product with it; here the frozen matrix reads all.) A Delta without LoRA comes back as it is. Raises
    DeltaError for a rate outside [0, 1), and for a lazy stack: materialise it first.
    """
    if not 0 <= rate < 1:
        raise DeltaError(f"a dropout rate lies in [0, 1), not {rate}")
    if rate == 0:
        return delta
    folded = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    stacks = {}
    for name, stack in delta.stacks.items():
        if isinstance(stack, LazyLayerDelta):
            raise DeltaError("a lazy delta has no LoRA to drop in yet; materialise() it first")
        stacks[name] = stack
        if stack.lora:
            layers = next(iter(stack.lora.values())).a_NBDR.shape[0]
            # Layer, stack and site are folded into the row's own key, so that what a row drops is the same in
            # whichever microbatch and on whichever device it lies.
            key_NB = jax.vmap(folded, in_axes=(None, 0))(
                folded(key_B, _number(name)), jnp.arange(layers)
            )
            dropped = {
                site: lora.replace(dropout=LoraDropout(key_NB, rate, _number(site)))
                for site, lora in stack.lora.items()
            }
            stacks[name] = stack.replace(lora=dropped)
    outer = delta.outer
    if outer.head is not None:
        outer = outer.replace(
            head=outer.head.replace(dropout=LoraDropout(key_B, rate, _number("head")))
        )
    return delta.replace(stacks=stacks, outer=outer)


def _number(name: str) -> int:
    """A number for a name that is the same in every process, as `hash` is not."""
    return zlib.crc32(name.encode()) % 2**31

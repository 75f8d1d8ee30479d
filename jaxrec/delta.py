"""Floor 1: the algebra of deltas. A `Delta` is data: made, indexed, scaled, added, merged, checked and counted here.

sites = Decoder.sites(cfg)                      what a model can be changed at
spec  = DeltaConfig(lora_rank=8)                which changes one wants
delta = init(key, sites, spec)                  trainable, the identity at the start
rows  = take(bank, tenant_B)                    a tenant for each row of a batch
check(delta, sites)                             a misspelt site is an error, never ignored
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from jaxrec.config import RunError
from jaxrec.sites import Sites, StackSites
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


class DeltaError(RunError, ValueError):
    """A pattern that names nothing of the model."""


@dataclasses.dataclass(frozen=True)
class DeltaConfig:
    """Which changes, and how large. A size of 0 (or False) leaves that kind out; several kinds combine."""

    lora_rank: int = 0
    lora_alpha: float = 16.0  # the delta is scaled by alpha / rank
    lora_sites: str = ".*"  # full-match pattern over sites, e.g. "q|v"
    adapter_size: int = 0
    adapter_sites: str = ".*"  # "attn|mlp" (Houlsby) or "mlp" (Pfeiffer)
    prefix_length: int = 0
    norm: bool = False
    scale: bool = False
    scale_sites: str = "k|v|down"
    attn_bias: bool = False
    distance_buckets: int = 32
    memory_segments: int = 2
    prompt_length: int = 0
    embed: bool = False
    head_rank: int = 0
    stacks: str = ".*"  # full-match pattern over stacks, e.g. "stack_1" for the top layers

    @property
    def empty(self) -> bool:
        """Whether nothing is changed, as with the defaults."""
        kinds = (self.norm, self.scale, self.attn_bias, self.embed)
        sizes = (self.lora_rank, self.adapter_size, self.prefix_length, self.prompt_length)
        return not any((*kinds, *sizes, self.head_rank))

    def __post_init__(self):
        sizes = (
            self.lora_rank,
            self.adapter_size,
            self.prefix_length,
            self.prompt_length,
            self.head_rank,
        )
        if min(sizes) < 0:
            raise ValueError(f"delta sizes must not be negative: {self}")


# ------------------------------------------------------------------------------------------------ making


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


def zeros(sites: Sites, cfg: DeltaConfig, batch: int = 1) -> Delta:
    """A Delta of zeros: the identity for every kind but a soft prompt (whose identity is to be absent)."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes(sites, cfg, batch))


def init(key: PRNGKeyArray, sites: Sites, cfg: DeltaConfig, batch: int = 1) -> Delta:
    """A trainable Delta that is the identity at the start and has a gradient there.

    LoRA: `a` uniform He, `b` zero (Hu 2021). Adapter: `down` normal 0.02, `up` zero. Prefix: keys and values
    normal 0.02, gate zero, so that it starts as the identity and its gate learns first. Soft prompt: normal 0.02.
    `scale_NB` is a constant of the layout: where a LoRA is applied no gradient flows into it.
    """
    paths, tree = jax.tree_util.tree_flatten_with_path(shapes(sites, cfg, batch))
    keys = jax.random.split(key, len(paths))

    def leaf(key, path, x):
        name = path[-1].name if hasattr(path[-1], "name") else str(path[-1])
        if name.startswith("a_"):
            bound = (3.0 / x.shape[-2]) ** 0.5
            return jax.random.uniform(key, x.shape, x.dtype, -bound, bound)
        if name.startswith("scale_NB"):
            rank = cfg.head_rank if "outer" in jax.tree_util.keystr(path) else cfg.lora_rank
            return jnp.full(x.shape, cfg.lora_alpha / rank, x.dtype)
        if name.startswith(("down_NBDA", "k_", "v_", "prompt_")):
            return 0.02 * jax.random.normal(key, x.shape, x.dtype)
        return jnp.zeros(x.shape, x.dtype)

    return jax.tree.unflatten(tree, [leaf(k, p, x) for k, (p, x) in zip(keys, paths, strict=True)])


def materialise(delta: Delta) -> Delta:
    """Every lazy stack made at once: for serving caches and export, where the Delta outlives one forward pass."""

    return delta.replace(stacks={name: _whole(stack) for name, stack in delta.stacks.items()})


def _whole(stack: LayerDelta | LazyLayerDelta) -> LayerDelta:
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


# ----------------------------------------------------------------------------------------------- algebra


def take(delta: Delta, index_B: Int[Array, " B"]) -> Delta:
    """Rows of a bank of deltas: one for each row of a batch, repeats welcome."""
    return _by_rows(lambda x, axis: jnp.take(x, index_B, axis=axis), delta)


def bank(deltas: Sequence[Delta]) -> Delta:
    """Deltas of the same layout, one after another along their rows."""
    layouts = {str(jax.tree.structure(d)) for d in deltas}
    if len(layouts) > 1:
        raise ValueError(
            f"{len(deltas)} deltas of {len(layouts)} different layouts cannot share a bank"
        )
    return _by_rows(lambda *x: jnp.concatenate(x[:-1], axis=x[-1]), *deltas)


def scale(delta: Delta, factor: float | Float[Array, ""]) -> Delta:
    """`factor` times the change: 0 is the identity, 1 the delta itself.

    Exact for LoRA, FiLM, IA3 and attention bias; for adapters the added term is scaled, for a prefix its gate.
    Raises ValueError for a soft prompt: there is no half of one.
    """
    if delta.outer.prompt_BPD is not None:
        raise ValueError(
            "a soft prompt cannot be scaled; drop it with delta.outer.replace(prompt_BPD=None)"
        )
    scaled = ("b_", "up_", "gate_", "gamma_", "beta_", "distance_", "segment_", "embed_")

    def leaf(path, x):
        last = path[-1]
        name = getattr(last, "name", "")
        in_scale = any(getattr(p, "name", None) == "scale" for p in path)  # IA3
        return x * factor if name.startswith(scaled) or in_scale else x

    return jax.tree_util.tree_map_with_path(leaf, delta)


def add(first: Delta, second: Delta) -> Delta:
    """Both changes at once. LoRAs are joined along their rank, so that the sum is exact; offsets are added.

    Raises ValueError where a sum does not exist (two adapters, prefixes or soft prompts on one site).
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


def merge(kernel_NDF: Float[Array, "N D F"], lora: Lora) -> Float[Array, "N D F"]:
    """The kernel with one tenant's LoRA folded in: the plain model then costs nothing more.

    Raises ValueError when the LoRA holds more than one row: a kernel can be only one tenant's.
    """
    if lora.a_NBDR.shape[1] != 1:
        raise ValueError(f"merge one tenant at a time; this LoRA holds {lora.a_NBDR.shape[1]} rows")
    change = jnp.einsum("ndr,nrf->ndf", lora.a_NBDR[:, 0], lora.b_NBRF[:, 0])
    return (kernel_NDF + change * lora.scale_NB[:, 0, None, None]).astype(kernel_NDF.dtype)


def merge_params(params: PyTree, delta: Delta, path_of: Callable[[str], Sequence[str]]) -> PyTree:
    """A model's params with one tenant's LoRAs folded in; `path_of(site)` is the site's path inside a stack.

    Raises ValueError when the delta holds a kind that is not a change of a kernel.
    """
    for name, stack in delta.stacks.items():
        kinds = [k.name for k in dataclasses.fields(stack) if getattr(stack, k.name)]
        if kinds != ["lora"]:
            raise ValueError(f"only LoRA can be merged into weights; {name} also has {kinds}")
    if jax.tree.leaves(delta.outer):
        raise ValueError("a delta with a soft prompt, embedding or head part cannot be merged")

    def replaced(tree, path, fn):
        return {
            **tree,
            path[0]: fn(tree[path[0]]) if len(path) == 1 else replaced(tree[path[0]], path[1:], fn),
        }

    for name, stack in delta.stacks.items():
        for site, lora in stack.lora.items():
            path = [name, *path_of(site), "kernel"]
            params = replaced(params, path, lambda w, lora=lora: merge(w, lora))
    return params


# --------------------------------------------------------------------------------------- checks and sizes


def check(delta: Delta, sites: Sites) -> None:
    """Raises ValueError naming the first stack, kind, site or size of `delta` that the model does not have."""
    for name, stack in delta.stacks.items():
        if name not in sites.stacks:
            raise ValueError(f"the model has no stack {name!r}; it has {sorted(sites.stacks)}")
        if isinstance(stack, LazyLayerDelta):
            stack = jax.eval_shape(_whole, stack)
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
    _by_rows(lambda x, axis: sizes.add(x.shape[axis]), delta)
    if len(sizes) != 1:
        raise ValueError(f"a delta's leaves hold different numbers of rows: {sorted(sizes)}")
    return sizes.pop()


# --------------------------------------------------------------------------------------------- the rest


def _leaf(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _pick(known: Mapping, pattern: str, what: str) -> dict:
    chosen = {name: x for name, x in known.items() if re.fullmatch(pattern, name)}
    if not chosen:
        raise DeltaError(f"pattern {pattern!r} matches no {what}; there are {sorted(known)}")
    return chosen


def _stack_shapes(sites: StackSites, cfg: DeltaConfig, b: int) -> LayerDelta:
    n, r, a, p = sites.n_layers, cfg.lora_rank, cfg.adapter_size, cfg.prefix_length
    s, kinds = _leaf, {}
    if r:
        lora = _pick(sites.lora, cfg.lora_sites, "LoRA site")
        kinds["lora"] = {
            site: Lora(s(n, b, d, r), s(n, b, r, f), s(n, b)) for site, (d, f) in lora.items()
        }
    if a:
        kinds["adapter"] = {
            site: Adapter(s(n, b, d, a), s(n, b, a), s(n, b, a, d), s(n, b, d))
            for site, d in _pick(sites.adapter, cfg.adapter_sites, "adapter site").items()
        }
    if p:
        kinds["prefix"] = {
            site: Prefix(s(n, b, p, g, k), s(n, b, p, g, k), s(n, b, h))
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


def _by_rows(fn: Callable, *deltas: Delta) -> Delta:
    """Map over leaves with the position of their row axis as last argument: 1 behind N, else 0."""
    if any(isinstance(x, LazyLayerDelta) for d in deltas for x in d.stacks.values()):
        raise ValueError(
            "a lazy delta has no rows of its own; materialise() it, or index p instead"
        )
    stacks = jax.tree.map(lambda *x: fn(*x, 1), *[d.stacks for d in deltas])
    outer = jax.tree.map(lambda *x: fn(*x, 0), *[d.outer for d in deltas])
    return Delta(stacks, outer)


def _plus(a, b):
    if a is None or b is None:
        return b if a is None else a
    return a + b


def _join(a: Lora | None, b: Lora | None) -> Lora | None:
    if a is None or b is None:
        return b if a is None else a
    # each scale goes into its own b: the joined LoRA has scale 1
    scaled = [x.b_NBRF * x.scale_NB[..., None, None] for x in (a, b)]
    joined = jnp.concatenate([a.a_NBDR, b.a_NBDR], axis=-1)
    return Lora(joined, jnp.concatenate(scaled, axis=-2), jnp.ones_like(a.scale_NB))


def _add_layers(a: LayerDelta, b: LayerDelta) -> LayerDelta:
    def union(kind, plus):
        x, y = getattr(a, kind) or {}, getattr(b, kind) or {}
        both = {site: plus(x[site], y[site]) for site in x if site in y}
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


def _check_sizes(where: str, change: PyTree, n_layers: int, size) -> None:
    first = jax.tree.leaves(change)[0]
    if first.shape[0] != n_layers:
        raise ValueError(f"{where}: made for {first.shape[0]} layers, the stack has {n_layers}")
    if isinstance(change, Lora):
        found, want = (change.a_NBDR.shape[-2], change.b_NBRF.shape[-1]), tuple(size)
    elif isinstance(change, Adapter):
        found, want = change.down_NBDA.shape[-2], size
    elif isinstance(change, Prefix):
        found, want = (change.gate_NBH.shape[-1], *change.k_NBPGK.shape[-2:]), tuple(size)
    elif isinstance(change, Film):
        found, want = change.gamma_NBD.shape[-1], size
    elif isinstance(change, AttnBias):
        found, want = first.shape[-2], size
    else:
        found, want = change.shape[-1], size
    if found != want:
        raise ValueError(f"{where}: sized {found}, the model has {want}")

"""Floor 2: a stack of layers with equal parameters, which are stacked along N; it runs as one `lax.scan`.

Layers may look in different ways ("global", "local"): then the scan goes over the periods of that pattern, whose layers
stand one after another in its body. Layers beyond the last whole period follow it, and a compiled program copies the
weights of the others out of the stack: on accelerators cut the stack there.

A backbone is a tuple of stacks, cut at configured layers, so that "the top three layers" is a path like any other.
On a CPU short stacks are unrolled: a loop writes what the backward pass needs into stacks of its own and reads it back,
a twentieth of a training step. A stack of one layer skips the scan: it copies each layer's weights out of the stack,
half the speed in decoding. `recut` changes the cuts of given parameters.
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxrec import mesh as meshes
from jaxrec.nn.cache import GLOBAL, LOCAL, LayerCache, cache_name
from jaxrec.structs import Delta, KVCache

KeysAndValues = dict[str, tuple[Array, Array, Array]]
UNROLLED = 16  # layers at most of a stack that is unrolled on a CPU; compiling takes the longer the more there are
REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def stack_sizes(layers: int, cuts: Sequence[int]) -> dict[str, int]:
    """{stack name: number of layers}. Raises ValueError when the cuts don't lie inside and rise."""
    edges = (0, *cuts, layers)
    if any(a >= b for a, b in itertools.pairwise(edges)):
        raise ValueError(f"cuts {tuple(cuts)} must rise strictly between 0 and {layers} layers")
    return {f"stack_{i}": b - a for i, (a, b) in enumerate(itertools.pairwise(edges))}


def recut(params: PyTree, old: Any, new: Any) -> PyTree:
    """Parameters cut at `old.cuts` as parameters cut at `new.cuts` (two configs of the same backbone).

    `jaxrec.delta.restack` does the same for a Delta. For serving on CPU cut between all layers:
    `dataclasses.replace(cfg, cuts=every_layer(cfg))`.
    """
    source, target = stack_sizes(old.layers, old.cuts), stack_sizes(new.layers, new.cuts)
    if old.layers != new.layers:
        raise ValueError(f"{old.layers} layers can't be cut into {new.layers}")
    if source == target:
        return params
    # Slices keep N as an axis of 1, so that layers are joined by concatenation whatever their cuts were.
    layer = lambda name, n: jax.tree.map(lambda x: x[n : n + 1], params[name])
    layers = iter([layer(name, n) for name, size in source.items() for n in range(size)])
    rest = {k: v for k, v in params.items() if not re.fullmatch(r"stack_\d+", k)}
    join = lambda *x: jnp.concatenate(x) if len(x) > 1 else x[0]
    return rest | {
        name: jax.tree.map(join, *(next(layers) for _ in range(size)))
        for name, size in target.items()
    }


def every_layer(cfg: Any) -> tuple[int, ...]:
    """The cuts that make each layer a stack of its own."""
    return tuple(range(1, cfg.layers))


def resolve_hidden(hidden: Sequence[int], layers: int) -> tuple[int, ...]:
    """HF `hidden_states` indices (negative ones count from the end) as numbers 0...layers."""
    for i in hidden:
        if not -layers - 1 <= i <= layers:
            raise ValueError(f"hidden state {i} asked of {layers} layers; there are 0...{layers}")
    return tuple(i % (layers + 1) for i in hidden)


def check_stacks(delta: Delta | None, names: Sequence[str]) -> None:
    """Raises ValueError when a delta changes a stack that the model does not have."""
    unknown = sorted(set(delta.stacks) - set(names)) if delta is not None else []
    if unknown:
        raise ValueError(f"the model has no stack {unknown[0]!r}; it has {', '.join(names)}")


class Stack:
    """Runs the layers of one stack after another.

    Args:
      block: a linen module of one layer: `block.apply({"params": w}, x, delta, cache, **context) -> (x, cache)`.
      types: of each layer, a name in `contexts` of a run.
      remat: a key of REMAT: what the backward pass makes again instead of keeping it (Chen 2016).
    """

    def __init__(self, block: nn.Module, types: Sequence[str], remat: str):
        self.block, self.types, self.remat = block, tuple(types), remat
        self.layers = len(self.types)

    def init(self, key: Array, x_BLD: Array, contexts: Mapping[str, dict]) -> PyTree:
        """Stacked parameters, every leaf leading with N."""
        # Parameters are the same in layers of any type.
        context = contexts[self.types[0]]
        # A key for each layer: with one for all of them, every layer would begin alike.
        one = lambda k: self.block.init(k, x_BLD, None, None, **context)["params"]
        return jax.vmap(one)(jax.random.split(key, self.layers))

    def run(
        self,
        weights: PyTree,
        x_BLD: Array,
        delta: Any,
        kv: KeysAndValues | None,
        contexts: Mapping[str, dict],
        taps: dict[int, int],
        tapped: Array | None,
    ) -> tuple[Array, KeysAndValues | None, Array | None]:
        """(x, the cache's new `kv`, `tapped`), x after layer i written to `tapped[taps[i]]`.

        Args:
          weights: stacked parameters, every leaf leading with N.
          x_BLD: the residual stream.
          delta: this stack's changes, whole or lazy, or None.
          kv: keys, values and the slots of the present tokens, by type of layer.
          contexts: what every layer of a type is given beside x.
          taps: {layer: row of `tapped`} of the hidden states that are asked for.
          tapped: room for them, [rows, B, L, D].
        """
        changes, make = delta.by_layer() if delta is not None else (None, lambda _: None)
        # the row beyond the end of `tapped` is that of layers which nobody asked for
        rows = jnp.array([taps.get(i, len(taps)) for i in range(self.layers)])

        def layer(layer_type: str, looped: bool = True) -> Callable:
            """One layer as the body of a scan, or (not `looped`) outside of any."""

            def run(carry, xs):
                x, kv, tapped = carry
                # `make` is called in here, so a lazy Delta exists for one layer at a time and never for all of them.
                w, change, n, row = xs
                cache = None
                if kv is not None:
                    cache = LayerCache(*kv[layer_type], n, ring=layer_type == LOCAL)
                context = contexts[layer_type]
                own = meshes.put_own(make(change))
                x, cache = self.block.apply({"params": w}, x, own, cache, **context)
                x = meshes.put(x, "residual")
                # Only the rows that are asked for: given out by the scan, the states of all layers would be kept.
                if taps:
                    tapped = tapped.at[row].set(x, mode="drop")
                if kv is not None:
                    kv = kv | {layer_type: (cache.k, cache.v, cache.slots_BL)}
                return (x, kv, tapped), None

            if REMAT[self.remat] is None:
                return run
            # Around a loop's body XLA cannot merge what is made again with what was made before, so the barriers that
            # prevent it, which also hinder other optimisations, are for a layer outside of one.
            return jax.checkpoint(run, policy=REMAT[self.remat], prevent_cse=not looped)

        # What changes from layer to layer is the carry; weights and changes are read by slices and never written.
        carry = (x_BLD, kv, tapped)
        # Number of each layer among those of its type: where its keys lie.
        nth = [self.types[:i].count(own) for i, own in enumerate(self.types)]
        if self.layers == 1:
            first = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)
            xs = (first(weights), first(changes), 0, rows[0])
            carry, _ = layer(self.types[0], looped=False)(carry, xs)
        elif self.period == 1:
            xs = (weights, changes, jnp.arange(self.layers), rows)
            carry, _ = jax.lax.scan(layer(self.types[0]), carry, xs, unroll=self._unrolls(weights))
        else:
            xs = (weights, changes, jnp.array(nth), rows)
            carry = self._run_periods(layer, carry, xs, unroll=self._unrolls(weights))
        x, kv, tapped = carry
        return x, kv, tapped

    def _run_periods(self, layer: Callable, carry: tuple, xs: tuple, unroll: bool) -> tuple:
        """The layers of a stack of several types: a scan over whole periods, then the layers that are left."""
        period, looped = self.period, self.layers >= 2 * self.period
        whole = self.layers // period * period if looped else 0

        def one_period(carry, xs):
            for layer_type, own in zip(self.types, _apart(xs), strict=False):
                carry, _ = layer(layer_type)(carry, own)
            return carry, None

        if looped:
            fold = lambda leaf: leaf[:whole].reshape(whole // period, period, *leaf.shape[1:])
            carry, _ = jax.lax.scan(one_period, carry, jax.tree.map(fold, xs), unroll=unroll)
        if whole < self.layers:
            left = _apart(jax.tree.map(lambda leaf: leaf[whole:], xs))
            for layer_type, own in zip(self.types[whole:], left, strict=True):
                carry, _ = layer(layer_type, looped=False)(carry, own)
        return carry

    @property
    def period(self) -> int:
        """After how many layers their types repeat; all of them where they don't."""
        return len(cycle_of(self.types))

    def _unrolls(self, weights: PyTree) -> bool:
        """Not where memory comes first: what is to be made again, a layer's activations or the floats of its quantised
        kernels, a compiler that sees all layers at once finds again and keeps."""
        quick = jax.default_backend() == "cpu" and self.layers <= UNROLLED and self.remat == "none"
        lazy = lambda leaf: hasattr(leaf, "matmul")
        return quick and not any(map(lazy, jax.tree.leaves(weights, is_leaf=lazy)))


def cycle_of(types: Sequence[str]) -> tuple[str, ...]:
    """The shortest beginning that, repeated to their end, gives all types."""
    n = len(types)
    repeats = lambda p: all(types[i] == types[i - p] for i in range(p, n))
    return tuple(types[: next(p for p in range(1, n + 1) if repeats(p))])


def types_of(cycle: Sequence[str], layers: int) -> tuple[str, ...]:
    """A cycle repeated over all layers."""
    return tuple(itertools.islice(itertools.cycle(cycle), layers))


def _apart(xs: PyTree) -> list[PyTree]:
    """A tree of leaves [P, ...] as P trees. By one split a leaf, whose gradient is one concatenation."""
    leaves, tree = jax.tree.flatten(xs)
    parts = [[part[0] for part in jnp.split(leaf, leaf.shape[0])] for leaf in leaves]
    return [jax.tree.unflatten(tree, own) for own in zip(*parts, strict=True)]


def run_stacks(
    module: nn.Module,
    block: nn.Module,
    sizes: dict[str, int],
    x_BLD: Array,
    contexts: Mapping[str, dict],
    *,
    types: Sequence[str] = (GLOBAL,),
    delta: Delta | None = None,
    cache: KVCache | None = None,
    slots: Mapping[str, Array | None] | None = None,
    hidden: Sequence[int] = (),
    remat: str = "none",
) -> tuple[Array, KVCache | None, dict[int, Array]]:
    """All stacks of a backbone over x, their parameters read from (or, at init, made in) `module`.

    Gives x after the last layer, the cache with `filled_B` yet to be advanced, and {i: x after i layers} for each i
    in `hidden` but the last.

    Args:
      module: whose parameters the stacks are, by their names.
      block: a linen module of one layer.
      sizes: layers of each stack, in order.
      x_BLD: what enters the first layer.
      contexts: what every layer of a type is given beside x.
      types: of the layers, repeated to the last one.
      delta: changes of the stacks that it names.
      cache: keys and values of every stack.
      slots: where in the cache of a type the present tokens go, [B, L].
      hidden: numbers of layers after which x is wanted; 0: before the first.
      remat: as of `Stack`.
    """
    check_stacks(delta, list(sizes))
    states = {0: x_BLD} if 0 in hidden else {}
    k, v = ({}, {}) if cache is None else (dict(cache.k), dict(cache.v))
    start, types = 0, types_of(types, sum(sizes.values()))
    for name, size in sizes.items():
        stack = Stack(block, types[start : start + size], remat)
        # Read as it is and not by `module.param`: quantised trees may stand where arrays were at init.
        if module.has_variable("params", name):
            weights = module.get_variable("params", name)
        else:
            weights = module.param(name, stack.init, x_BLD, contexts)
        inner = [i for i in sorted(set(hidden)) if start < i < start + size]
        taps = {i - start - 1: row for row, i in enumerate(inner)}
        tapped = jnp.zeros((len(inner), *x_BLD.shape), x_BLD.dtype) if inner else None
        own = {t: cache_name(name, t) for t in stack.types}
        kv = None if cache is None else {t: (k[n], v[n], slots[t]) for t, n in own.items()}
        change = None if delta is None else delta.stacks.get(name)
        x_BLD, kv, tapped = stack.run(weights, x_BLD, change, kv, contexts, taps, tapped)
        for t, n in own.items() if kv is not None else ():
            k[n], v[n] = kv[t][0], kv[t][1]
        start += size
        states |= {i: tapped[row] for row, i in enumerate(inner)} | (
            {start: x_BLD} if start in hidden else {}
        )
    return x_BLD, None if cache is None else cache.replace(k=k, v=v), states

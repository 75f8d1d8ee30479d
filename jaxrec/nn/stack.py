"""Floor 2: a stack of equal layers. Its parameters are stacked along N and it runs as one `lax.scan`.

A backbone is a tuple of stacks, cut at configured layers, so that "the top three layers" is a path like any other.
On a CPU short stacks are unrolled: a loop writes what the backward pass needs into stacks of its own and reads it back,
a twentieth of a training step. A stack of one layer skips the scan: it copies each layer's weights out of the stack,
half the speed in decoding. `recut` changes the cuts of given parameters.
"""

import itertools
import re
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxrec import mesh as meshes
from jaxrec.nn.cache import LayerCache
from jaxrec.structs import Delta, KVCache

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
      layers: how many there are.
      remat: a key of REMAT: what the backward pass makes again instead of keeping it (Chen 2016).
    """

    def __init__(self, block: nn.Module, layers: int, remat: str):
        self.block, self.layers, self.remat = block, layers, remat

    def init(self, key: Array, x_BLD: Array, context: dict) -> PyTree:
        """Stacked parameters, every leaf leading with N."""
        # A key for each layer: with one for all of them, every layer would begin alike.
        one = lambda k: self.block.init(k, x_BLD, None, None, **context)["params"]
        return jax.vmap(one)(jax.random.split(key, self.layers))

    def run(
        self,
        weights: PyTree,
        x_BLD: Array,
        delta: Any,
        kv: tuple[Array, Array, Array] | None,
        context: dict,
        taps: dict[int, int],
        tapped: Array | None,
    ) -> tuple[Array, tuple[Array, Array, Array] | None, Array | None]:
        """(x, the cache's new `kv`, `tapped`), x after layer i written to `tapped[taps[i]]`.

        Args:
          weights: stacked parameters, every leaf leading with N.
          x_BLD: the residual stream.
          delta: this stack's changes, whole or lazy, or None.
          kv: keys, values and the slots of the present tokens.
          context: what every layer is given beside x.
          taps: {layer: row of `tapped`} of the hidden states that are asked for.
          tapped: room for them, [rows, B, L, D].
        """
        changes, make = delta.by_layer() if delta is not None else (None, lambda _: None)
        # the row beyond the end of `tapped` is that of layers which nobody asked for
        rows = jnp.array([taps.get(i, len(taps)) for i in range(self.layers)])

        def layer(carry, xs):
            x, kv, tapped = carry
            # `make` is called in here, so a lazy Delta exists for one layer at a time and never for all of them.
            w, change, n, row = xs
            cache = None if kv is None else LayerCache(kv[0], kv[1], kv[2], n)
            own = meshes.put_own(make(change))
            x, cache = self.block.apply({"params": w}, x, own, cache, **context)
            x = meshes.put(x, "residual")
            # Only the rows that are asked for: given out by the scan, the states of all layers would be kept.
            if taps:
                tapped = tapped.at[row].set(x, mode="drop")
            return (x, None if kv is None else (cache.k, cache.v, kv[2]), tapped), None

        # Around a loop's body XLA cannot merge what is made again with what was made before, so the barriers that
        # prevent it, which also hinder other optimisations, are for a layer outside of one.
        if REMAT[self.remat] is not None:
            layer = jax.checkpoint(layer, policy=REMAT[self.remat], prevent_cse=self.layers == 1)
        # What changes from layer to layer is the carry; weights and changes are read by slices and never written.
        carry = (x_BLD, kv, tapped)
        if self.layers == 1:
            first = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)
            carry, _ = layer(carry, (first(weights), first(changes), 0, rows[0]))
        else:
            xs = (weights, changes, jnp.arange(self.layers), rows)
            carry, _ = jax.lax.scan(layer, carry, xs, unroll=self._unrolls(weights))
        x, kv, tapped = carry
        return x, kv, tapped

    def _unrolls(self, weights: PyTree) -> bool:
        """Not where memory comes first: what is to be made again, a layer's activations or the floats of its quantised
        kernels, a compiler that sees all layers at once finds again and keeps."""
        quick = jax.default_backend() == "cpu" and self.layers <= UNROLLED and self.remat == "none"
        lazy = lambda leaf: hasattr(leaf, "matmul")
        return quick and not any(map(lazy, jax.tree.leaves(weights, is_leaf=lazy)))


def run_stacks(
    module: nn.Module,
    block: nn.Module,
    sizes: dict[str, int],
    x_BLD: Array,
    context: dict,
    *,
    delta: Delta | None = None,
    cache: KVCache | None = None,
    slots_BL: Array | None = None,
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
      context: what every layer is given beside x.
      delta: changes of the stacks that it names.
      cache: keys and values of every stack.
      slots_BL: where in the cache the present tokens go.
      hidden: numbers of layers after which x is wanted; 0: before the first.
      remat: as of `Stack`.
    """
    check_stacks(delta, list(sizes))
    states = {0: x_BLD} if 0 in hidden else {}
    k, v = ({}, {}) if cache is None else (dict(cache.k), dict(cache.v))
    start = 0
    for name, size in sizes.items():
        stack = Stack(block, size, remat)
        # Read as it is and not by `module.param`: quantised trees may stand where arrays were at init.
        if module.has_variable("params", name):
            weights = module.get_variable("params", name)
        else:
            weights = module.param(name, stack.init, x_BLD, context)
        inner = [i for i in sorted(set(hidden)) if start < i < start + size]
        taps = {i - start - 1: row for row, i in enumerate(inner)}
        tapped = jnp.zeros((len(inner), *x_BLD.shape), x_BLD.dtype) if inner else None
        kv = None if cache is None else (k[name], v[name], slots_BL)
        change = None if delta is None else delta.stacks.get(name)
        x_BLD, kv, tapped = stack.run(weights, x_BLD, change, kv, context, taps, tapped)
        if kv is not None:
            k[name], v[name] = kv[0], kv[1]
        start += size
        states |= {i: tapped[row] for row, i in enumerate(inner)} | (
            {start: x_BLD} if start in hidden else {}
        )
    return x_BLD, None if cache is None else cache.replace(k=k, v=v), states

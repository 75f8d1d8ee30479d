"""How gradients are taken is an argument of the step: `summed`, `cached` or `clipped`.

A loss divides by totals of the *whole* batch that `weigh` gave before the first microbatch, so gradients of
microbatches simply add up, with several terms of different weights too: `accum=4` equals `accum=1`.

    weigh:  batch -> {term: total weight}
    LossFn: (params, frozen, extra, batch, totals, key_B) -> (loss, Aux(metrics, stats))

`key_B` holds one random key *per row*, made from the row's index in the whole batch. A loss that draws a row's dropout
from that row's key (`jax.vmap(jax.random.bernoulli, ...)(key_B)`) keeps the identity as well.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrec import mesh as meshes
from jaxrec.structs import Aux

Tree = Any
Totals = Mapping[str, Float[Array, ""]]
Weigh = Callable[[Tree], Totals]
LossFn = Callable[[Tree, Tree, Tree, Tree, Totals, Array], tuple[Float[Array, ""], Aux]]


@dataclasses.dataclass(frozen=True)
class Spanning:
    """A LossFn whose rows meet each other (InfoNCE): its two halves, for `cached`. Called, it is a plain LossFn.

    encode: (params, frozen, extra, batch, key_B) -> embeddings, a tree whose leaves lead with B; row by row.
    score:  (params, frozen, extra, embeddings, batch, totals, key_B) -> (loss, Aux), over the whole batch.
    Terms that are sums over rows may be computed in `encode` and pass as leaves of shape [B].
    """

    encode: Callable[..., Tree]
    score: Callable[..., tuple[Float[Array, ""], Aux]]

    def __call__(
        self, params: Tree, frozen: Tree, extra: Tree, batch: Tree, totals: Totals, key_B: Array
    ) -> tuple[Float[Array, ""], Aux]:
        """Both halves at once, as `summed(1)` uses it.

        Args:
          params, frozen, extra: what trains, what does not, and what moves without gradient.
          batch: all rows.
          totals: the denominators that `weigh` gave.
          key_B: a random key a row.
        """
        embeddings = self.encode(params, frozen, extra, batch, key_B)
        return self.score(params, frozen, extra, embeddings, batch, totals, key_B)


@dataclasses.dataclass(frozen=True)
class Gradients:
    """take(loss, weigh, params, frozen, extra, batch, key) -> (gradient, loss, Aux)."""

    take: Callable[..., tuple[Tree, Float[Array, ""], Aux]]
    accum: int = 1  # a batch must divide by accum x data x fsdp
    private: bool = False  # carries noise on every parameter, so a table by rows (noise on some) may not be used


def rows_of(batch: Tree) -> int:
    """B, the leading size that all leaves of a batch share. Raises ValueError where they do not."""
    sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(batch)}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(
            f"every leaf of a batch leads with B, but the leading sizes are {sorted(sizes)}"
        )
    return sizes.pop()[0]


def example_keys(key: Array, rows: int) -> Array:
    """One key for each row of the whole batch."""
    # Folded with the row's index, not split once a microbatch: what a row draws must not depend on how the batch is
    # cut, or `accum=4` would drop other entries than `accum=1`.
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(rows))


def to_microbatches(tree: Tree, accum: int) -> Tree:
    """[B, ...] -> [accum, B/accum, ...]; microbatch i holds the rows i, i + accum, i + 2 accum, ...

    Contiguous microbatches would each lie on a part of the devices and put an all-gather into the program.
    """
    cut = jax.tree.map(lambda x: x.reshape(-1, accum, *x.shape[1:]).swapaxes(0, 1), tree)
    return meshes.put(cut, "microbatches")


def from_microbatches(tree: Tree) -> Tree:
    """The inverse of `to_microbatches`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)


def summed(accum: int = 1) -> Gradients:
    """Gradients of `accum` microbatches, added up in float32 by a scan: activations of one microbatch at a time."""

    def take(loss, weigh, params, frozen, extra, batch, key):
        totals, keys = weigh(batch), example_keys(key, rows_of(batch))
        # Added up plainly, each row would meet the rows of its own microbatch alone: InfoNCE's gradient came out
        # 73% wrong. Hence an error rather than a silent approximation.
        if accum > 1 and isinstance(loss, Spanning):
            raise ValueError(
                "this loss spans the batch: microbatches do not add up, take gradients.cached(accum)"
            )

        def one(part, part_keys):
            value = jax.value_and_grad(loss, has_aux=True)
            (total, aux), grads = value(params, frozen, extra, part, totals, part_keys)
            return grads, total, aux

        return (
            _add_up(one, to_microbatches((batch, keys), accum)) if accum > 1 else one(batch, keys)
        )

    return Gradients(take, accum)


def cached(accum: int) -> Gradients:
    """Exact gradients of a `Spanning` loss in microbatches (GradCache; Gao et al. 2021).

    First the embeddings of all microbatches without gradient, then the loss and its gradient with respect to them,
    then each microbatch again, pulled back from there. Costs one forward pass more than `summed`.
    """

    def take(loss, weigh, params, frozen, extra, batch, key):
        if not isinstance(loss, Spanning):
            raise TypeError("gradients.cached needs a Spanning loss (its encode and score)")
        totals, keys = weigh(batch), example_keys(key, rows_of(batch))
        micro = to_microbatches((batch, keys), accum)
        embed = lambda p, part, part_keys: loss.encode(p, frozen, extra, part, part_keys)
        # No gradient is taken through this pass, so no activation outlives its microbatch. The second pass has the
        # same keys: with other dropout the gradient would be pulled back through another function than the one that
        # was scored.
        embeddings = from_microbatches(jax.lax.map(lambda part: embed(params, *part), micro))

        score = lambda p, e: loss.score(p, frozen, extra, e, batch, totals, keys)
        # The score may read parameters itself as well, so their direct gradient is taken along with the one towards
        # the embeddings, and both are added at the end.
        value = jax.value_and_grad(score, argnums=(0, 1), has_aux=True)
        (total, aux), (direct, pulled) = value(params, embeddings)

        def one(part, part_keys, part_pulled):
            _, back = jax.vjp(lambda p: embed(p, part, part_keys), params)
            return back(part_pulled)[0]

        through = _add_up(one, (*micro, to_microbatches(pulled, accum)))
        return jax.tree.map(jnp.add, direct, through), total, aux

    return Gradients(take, accum)


def spanning(accum: int = 1) -> Gradients:
    """For a `Spanning` loss: in one pass when the batch is taken whole, `cached` when it is not."""
    return cached(accum) if accum > 1 else summed()


def clipped(clip: float, noise: float, expected: float, chunk: int = 8) -> Gradients:
    """Differentially private gradients (Abadi et al. 2016): each row's gradient clipped to norm `clip`, then noise.

    `noise` is the multiplier sigma: normal noise of deviation sigma x clip on the sum, then divided by `expected`,
    the expected size of a Poisson-sampled batch (a fixed number: the true size is itself private). Padding rows,
    those whose every total is 0, add nothing. Each row is weighed alone, so its loss is its own mean. `chunk` rows
    are taken at once; it must divide B. On a mesh each device takes as many of its own, or fewer where that does not
    divide them. Metrics are sums over the real rows over `expected`, and are *not* private.
    """

    def take(loss, weigh, params, frozen, extra, batch, key):
        if isinstance(loss, Spanning):
            raise ValueError(
                "a loss that spans the batch has no gradient per row: it cannot be clipped"
            )
        rows = rows_of(batch)

        def row(part, row_key):
            alone = jax.tree.map(lambda x: x[None], part)
            totals = weigh(alone)
            real = jnp.any(jnp.stack([jnp.asarray(t, jnp.float32) > 0 for t in totals.values()]))
            # A padding row has totals of 0. Divided by them it would give NaN, and NaN times 0 stays NaN, so it
            # divides by 1 and is replaced by zeros as a whole below.
            safe = {term: jnp.where(t > 0, t, 1) for term, t in totals.items()}
            value = jax.value_and_grad(loss, has_aux=True)
            (total, aux), grads = value(params, frozen, extra, alone, safe, row_key[None])
            # One norm over all parameters: clipped leaf by leaf, a row could move the sum by clip times the root of
            # the number of leaves, and the noise would be too small for it.
            norm = norm_of(grads)
            scale = jnp.minimum(1.0, clip / jnp.maximum(norm, 1e-12))
            metrics = dict(aux.metrics, clipped=(norm > clip).astype(jnp.float32))
            mine = (jax.tree.map(lambda g: g * scale, grads), total, aux.replace(metrics=metrics))
            return jax.tree.map(lambda x: jnp.where(real, x, jnp.zeros_like(x)), mine)

        def one(part, part_keys):
            # A row's gradient is as large as the parameters, so `chunk` of them exist at once, and the scan adds up
            # the chunks.
            return jax.tree.map(lambda x: x.sum(0), meshes.map_rows(row)(part, part_keys))

        count = rows // chunk
        if (parts := meshes.row_parts(rows)) > 1:
            own = rows // parts
            count = own // max(n for n in range(1, chunk + 1) if own % n == 0)
        micro = to_microbatches((batch, example_keys(key, rows)), count)
        grads, total, aux = _add_up(one, micro)
        # Noise is added once, to the sum over all rows: once a chunk it would grow with the number of chunks, and
        # the privacy spent would not be what sigma says.
        grads = _with_noise(
            grads, noise * clip, jax.random.fold_in(key, rows)
        )  # rows: no row has this key
        mean = lambda tree: jax.tree.map(lambda x: x / expected, tree)
        return mean(grads), total / expected, aux.replace(metrics=mean(aux.metrics))

    return Gradients(take, private=True)


def through(loss: LossFn, view: Callable[[Tree], Tree]) -> LossFn:
    """The same loss over other parameters: `view` turns those into what the loss reads."""
    if isinstance(loss, Spanning):
        return Spanning(
            encode=lambda p, *rest: loss.encode(view(p), *rest),
            score=lambda p, *rest: loss.score(view(p), *rest),
        )
    return lambda p, *rest: loss(view(p), *rest)


def norm_of(tree: Tree) -> Float[Array, ""]:
    """The Euclidean norm over all leaves, in float32."""
    leaves = jax.tree.leaves(tree)
    return jnp.sqrt(
        sum((jnp.sum(jnp.square(x.astype(jnp.float32))) for x in leaves), jnp.float32(0))
    )


def _add_up(one: Callable[..., Tree], micro: tuple) -> Tree:
    """The sum of one(*part) over microbatches; floating leaves are added in float32."""
    first = jax.tree.map(lambda x: x[0], micro)
    # A sum in bfloat16, of 8 significant bits, would swallow the small gradients of later microbatches.
    wide = lambda x: (
        jnp.promote_types(x.dtype, jnp.float32)
        if jnp.issubdtype(x.dtype, jnp.floating)
        else x.dtype
    )
    # The shapes come from tracing one microbatch, so that every iteration of the scan is alike and the loss stands
    # in the program once.
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, wide(x)), jax.eval_shape(one, *first))

    def body(total, part):
        return jax.tree.map(lambda t, x: t + x.astype(t.dtype), total, one(*part)), None

    return jax.lax.scan(body, zeros, micro)[0]


def _with_noise(grads: Tree, deviation: float, key: Array) -> Tree:
    leaves, tree = jax.tree.flatten(grads)
    keys = jax.random.split(key, len(leaves))
    noisy = [
        g + deviation * jax.random.normal(k, g.shape, jnp.float32)
        for g, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, noisy)

"""Floor 2: what enters the layers: the table of vectors, and the outer delta (soft prompt, first token's offset)."""

from typing import Any

import flax.linen as nn
import flax.struct as struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrec import mesh as meshes
from jaxrec.nn.attention import self_mask
from jaxrec.nn.cache import slots_for, slots_in
from jaxrec.nn.layers import weight
from jaxrec.structs import KVCache, OuterDelta

_FAR = 1 << 30  # a place that no token has


class Embed(nn.Module):
    """A table of vectors [V, D], read by id, or (tied: Press 2017) multiplied as the head. It may be quantised."""

    rows: int
    width: int
    init_std: float = 0.02

    def setup(self):
        normal = nn.initializers.normal(self.init_std)
        self.table = weight(self, "table", (self.rows, self.width), normal, by_row=True)

    def __call__(self, ids_BL: Array) -> Array:
        if (
            self.name == "embed"
        ):  # a model's main table; the rules split others by row, or not at all
            return vectors_by_column(self.table, ids_BL)
        return vectors_of(self.table, meshes.put(ids_BL, "rows"))

    def attend(self, x_BLD: Array) -> Array:
        """Scores of x against every row."""
        return scores_of(self.table, x_BLD)


def vectors_of(table: Any, ids_BL: Array) -> Array:
    """The rows of a table [V, D], or of one quantised, at these ids."""
    return table.take(ids_BL) if hasattr(table, "matmul") else jnp.take(table, ids_BL, axis=0)


def vectors_by_column(table: Any, ids_BL: Array) -> Array:
    """As `vectors_of`, of a table that a mesh splits along D.

    Each device reads its columns for the rows of all that share them, and the parts of a row then meet where the row
    lies. Left to itself, the compiler takes a way through every row on every device.
    """
    x_BLD = vectors_of(table, meshes.put(ids_BL, "shared"))
    return meshes.put(meshes.put(x_BLD, "columns"), "residual")


def scores_of(table: Any, x_BLD: Array) -> Array:
    """x against every row of a table [V, D], or of one quantised: [B, L, V], of x's type."""
    if hasattr(table, "matmul"):
        return table.matmul(x_BLD)
    return jnp.einsum("bld,vd->blv", x_BLD, table.astype(x_BLD.dtype))


@struct.dataclass
class Entry:
    """What enters the layers, and who sees whom. L counts the `shared` rows of a soft prompt, which come first."""

    x_BLD: Float[Array, "B L D"]
    mask_BL: Bool[Array, "B L"]
    positions_BL: Int[Array, "B L"]  # with a cache: the slots too
    key_positions_BM: Int[Array, "_ M"]
    seen_BLM: Bool[Array, "B L M"]
    filled_B: Int[Array, "B"] | None = None  # of the cache, these tokens included
    shared: int = struct.field(pytree_node=False, default=0)


def enter(
    x_BLD: Float[Array, "B L D"],
    mask_BL: Bool[Array, "B L"],
    positions_BL: Int[Array, "B L"] | None,
    segments_BL: Int[Array, "B L"] | None,
    outer: OuterDelta,
    cache: KVCache | None = None,
    causal: bool = True,
) -> Entry:
    """Embeddings x with the outer delta in them: whole texts, or (with a cache) the next chunk of each.

    Args:
      x_BLD: vectors of the tokens.
      mask_BL: real tokens.
      positions_BL: if not given, real tokens are counted. A soft prompt shifts them by its length; in a cache a
        token's position is its slot.
      segments_BL: of packed examples.
      outer: a soft prompt (Lester 2021) and an offset, which goes to each token at position 0: in a packed row, to
        the first of each example. With a cache both enter with a row's first chunk that has a real token.
      cache: keys and values so far.
      causal: a token sees no later one.

    Raises ValueError when a chunk can't fit into the cache.
    """
    mask_BL, positions_BL, segments_BL = meshes.put((mask_BL, positions_BL, segments_BL), "rows")
    begins_B1 = jnp.ones((x_BLD.shape[0], 1), bool)
    if cache is not None:
        # Prompts of a batch end in different chunks, and p must enter a row once: with its first real token.
        begins_B1 = (cache.filled_B[:, None] == 0) & mask_BL.any(1, keepdims=True)
    if positions_BL is None:
        # The padding at a row's left would count as -1; nobody sees it, but tables are read at its position.
        positions_BL = jnp.maximum(jnp.cumsum(mask_BL.astype(jnp.int32), axis=1) - 1, 0)
    if outer.embed_BD is not None:
        # one vector at one place: every later token can attend to it, so it is the least way in which p can enter
        first_BL = mask_BL & (positions_BL == 0) & begins_B1
        x_BLD = x_BLD + first_BL[:, :, None] * outer.embed_BD[:, None, :].astype(x_BLD.dtype)
    shared = 0
    if outer.prompt_BPD is not None:
        shared = outer.prompt_BPD.shape[1]
        fill = lambda rows: jnp.broadcast_to(rows, (x_BLD.shape[0], shared))
        # In a row that has begun already, the prompt's places are padding: they take no slot and are seen by nobody.
        mask_BL = _before(fill(begins_B1), mask_BL)
        positions_BL = _before(fill(jnp.arange(shared)[None]), positions_BL + shared)
        if segments_BL is not None:
            # No example has segment 0; `self_mask` shows these places to all segments by `shared`.
            segments_BL = _before(fill(jnp.zeros((1, 1), segments_BL.dtype)), segments_BL)
        prompt = outer.prompt_BPD.astype(x_BLD.dtype)
        x_BLD = _before(jnp.broadcast_to(prompt, (x_BLD.shape[0], *prompt.shape[1:])), x_BLD)
    x_BLD = meshes.put(x_BLD, "residual")
    if cache is None:
        seen_BLM = self_mask(mask_BL, causal, segments_BL, shared)
        return Entry(x_BLD, mask_BL, positions_BL, positions_BL, seen_BLM, shared=shared)
    return _into_cache(x_BLD, mask_BL, cache, shared)


def _into_cache(x_BLD: Array, mask_BL: Array, cache: KVCache, shared: int) -> Entry:
    n_slots = slots_in(cache)
    if n_slots is not None and x_BLD.shape[1] > n_slots:
        raise ValueError(
            f"{x_BLD.shape[1]} tokens at once, but the cache has {n_slots} slots a row"
        )
    slots_BL = slots_for(mask_BL, cache.filled_B, _FAR if n_slots is None else n_slots)
    slots_1M = jnp.arange(n_slots or 0)[None]
    # every slot up to one's own is filled, with a key of the same row
    seen_BLM = (slots_1M[:, None, :] <= slots_BL[:, :, None]) & mask_BL[:, :, None]
    filled_B = cache.filled_B + mask_BL.sum(1)
    return Entry(x_BLD, mask_BL, slots_BL, slots_1M, seen_BLM, filled_B, shared)


def _before(first: Array, then: Array) -> Array:
    return jnp.concatenate([first, then], axis=1)

"""Floor 2: what enters the layers: the table of vectors, and the outer delta (soft prompt, first token's offset)."""

import flax.linen as nn
import flax.struct as struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrec.nn.cache import slots_for
from jaxrec.nn.layers import weight
from jaxrec.structs import KVCache, OuterDelta


class Embed(nn.Module):
    """A table of vectors [V, D], read by id, or (tied) multiplied as the head."""

    rows: int
    width: int
    init_std: float = 0.02

    def setup(self):
        normal = nn.initializers.normal(self.init_std)
        self.table = weight(self, "table", (self.rows, self.width), normal)

    def __call__(self, ids_BL: Array) -> Array:
        return jnp.take(self.table, ids_BL, axis=0)

    def attend(self, x_BLD: Array) -> Array:
        """Scores of x against every row."""
        return jnp.einsum("bld,vd->blv", x_BLD, self.table.astype(x_BLD.dtype))


@struct.dataclass
class Entry:
    """Embeddings with the outer delta in them. L counts the `shared` rows of a soft prompt, which come first."""

    x_BLD: Float[Array, "B L D"]
    mask_BL: Bool[Array, "B L"]
    positions_BL: Int[Array, "B L"]  # with a cache: the slots too
    segments_BL: Int[Array, "B L"] | None = None
    shared: int = struct.field(pytree_node=False, default=0)
    n_slots: int = struct.field(pytree_node=False, default=0)


def enter(
    x_BLD: Float[Array, "B L D"],
    mask_BL: Bool[Array, "B L"],
    positions_BL: Int[Array, "B L"] | None,
    segments_BL: Int[Array, "B L"] | None,
    outer: OuterDelta,
) -> Entry:
    """Whole texts. Positions, if not given, count real tokens; a soft prompt shifts them by its length.

    The offset goes to each token at position 0: in a packed row, to the first of each example.
    """
    if positions_BL is None:
        positions_BL = jnp.maximum(jnp.cumsum(mask_BL.astype(jnp.int32), axis=1) - 1, 0)
    x_BLD = _offset(x_BLD, mask_BL & (positions_BL == 0), outer)
    if outer.prompt_BPD is None:
        return Entry(x_BLD, mask_BL, positions_BL, segments_BL)
    batch, shared = x_BLD.shape[0], outer.prompt_BPD.shape[1]
    fill = lambda row: jnp.broadcast_to(row[None], (batch, shared))
    if segments_BL is not None:
        segments_BL = _before(fill(jnp.zeros(shared, segments_BL.dtype)), segments_BL)
    return Entry(
        _prompted(x_BLD, outer),
        _before(fill(jnp.ones(shared, bool)), mask_BL),
        _before(fill(jnp.arange(shared)), positions_BL + shared),
        segments_BL,
        shared,
    )


def enter_cached(
    x_BLD: Float[Array, "B L D"], mask_BL: Bool[Array, "B L"], cache: KVCache, outer: OuterDelta
) -> Entry:
    """The next chunk of texts whose beginning is in the cache: a token's position is its slot.

    Offset and soft prompt enter with a row's first chunk that has a real token; later chunks find them in the
    cache. Raises ValueError when the chunk can't fit into the cache.
    """
    n_slots = next(iter(cache.k.values())).shape[2]
    begins_B = (cache.filled_B == 0) & mask_BL.any(1)
    first_BL = mask_BL & (jnp.cumsum(mask_BL.astype(jnp.int32), axis=1) == 1) & begins_B[:, None]
    x_BLD, shared = _offset(x_BLD, first_BL, outer), 0
    if outer.prompt_BPD is not None:
        shared = outer.prompt_BPD.shape[1]
        x_BLD = _prompted(x_BLD, outer)
        mask_BL = _before(jnp.repeat(begins_B[:, None], shared, axis=1), mask_BL)
    if x_BLD.shape[1] > n_slots:
        raise ValueError(
            f"{x_BLD.shape[1]} tokens at once, but the cache has {n_slots} slots a row"
        )
    slots_BL = slots_for(mask_BL, cache.filled_B, n_slots)
    return Entry(x_BLD, mask_BL, slots_BL, None, shared, n_slots)


def _offset(x_BLD: Array, first_BL: Array, outer: OuterDelta) -> Array:
    if outer.embed_BD is None:
        return x_BLD
    return x_BLD + first_BL[:, :, None] * outer.embed_BD[:, None, :].astype(x_BLD.dtype)


def _prompted(x_BLD: Array, outer: OuterDelta) -> Array:
    prompt = outer.prompt_BPD.astype(x_BLD.dtype)
    return _before(jnp.broadcast_to(prompt, (x_BLD.shape[0], *prompt.shape[1:])), x_BLD)


def _before(first: Array, then: Array) -> Array:
    return jnp.concatenate([first, then], axis=1)

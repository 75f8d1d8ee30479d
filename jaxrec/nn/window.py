"""Floor 2: what a layer of each type sees of the tokens: everything before them, or a window that ends with them.

Distances are those of positions, not of places in the row: padding between two tokens takes nothing of a window.
"""

import flax.struct as struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxrec.nn.cache import GLOBAL, LOCAL, cache_name
from jaxrec.nn.embed import Entry
from jaxrec.structs import KVCache


@struct.dataclass
class View:
    """Who sees which key, where the keys are, and with a cache the slots that the present tokens go into."""

    seen_BLM: Bool[Array, "B L M"]
    key_positions_BM: Int[Array, "_ M"]
    slots_BL: Int[Array, "B L"] | None = None


def views(
    entry: Entry, types: tuple[str, ...], window: int, cache: KVCache | None
) -> dict[str, View]:
    """The view of each type of layer that there is.

    Args:
      entry: what enters the layers.
      types: of the layers.
      window: keys that a query of a local layer sees, its own included.
      cache: before these tokens.
    """
    out = {}
    if GLOBAL in types:
        slots_BL = None if cache is None else entry.positions_BL
        out[GLOBAL] = View(entry.seen_BLM, entry.key_positions_BM, slots_BL)
    if LOCAL in types:
        if cache is None:
            near = _within(entry.positions_BL, entry.key_positions_BM, window)
            out[LOCAL] = View(entry.seen_BLM & near, entry.key_positions_BM)
        else:
            ring = next(
                k.shape[3] for name, k in cache.k.items() if name.endswith(cache_name("", LOCAL))
            )
            out[LOCAL] = _over_ring(entry, window, ring, cache.filled_B)
    return out


def _over_ring(entry: Entry, window: int, ring: int, filled_B: Array) -> View:
    """The view of the slots of a ring and, where several tokens come at once, of themselves (`LayerCache.extend`).

    Args:
      entry: what enters the layers.
      window: keys that a query sees.
      ring: slots of a row.
      filled_B: tokens of a row before these.
    """
    at_BL, real_BL = entry.positions_BL, entry.mask_BL
    # Of more tokens than there are slots only the last stay, or several would be written into one slot.
    stays_BL = real_BL & (at_BL >= entry.filled_B[:, None] - ring)
    slots_BL = jnp.where(stays_BL, at_BL % ring, ring)
    alone = at_BL.shape[1] == 1  # a single token is written first and finds itself in the ring
    held_BM = _held(entry.filled_B if alone else filled_B, ring)
    seen_BLM = (held_BM >= 0)[:, None, :] & _within(at_BL, held_BM, window) & real_BL[:, :, None]
    if alone:
        return View(seen_BLM, held_BM, slots_BL)
    own_BLL = real_BL[:, :, None] & real_BL[:, None, :] & _within(at_BL, at_BL, window)
    own_BLL = own_BLL & (at_BL[:, None, :] <= at_BL[:, :, None])
    join = lambda x, y: jnp.concatenate([x, y], axis=-1)
    return View(join(seen_BLM, own_BLL), join(held_BM, at_BL), slots_BL)


def _held(filled_B: Int[Array, " B"], ring: int) -> Int[Array, "B M"]:
    """The position of the token in each slot after so many tokens; below 0 where the slot is empty."""
    last_B1 = filled_B[:, None] - 1
    return last_B1 - (last_B1 - jnp.arange(ring)[None]) % ring


def _within(
    query_BL: Int[Array, "_q L"], key_BM: Int[Array, "_k M"], window: int
) -> Bool[Array, "_b L M"]:
    return query_BL[:, :, None] - key_BM[:, None, :] < window

"""Floor 2: the key-value cache of a tuple of stacks, and one layer's view of it while a scan carries it.

A layer that sees everything ("global") keeps a slot for each token of a row. A "local" one, which sees a window, keeps
a ring: the token at position p lies in slot p mod window, where the one lay that has left the window.
"""

from collections.abc import Mapping

import flax.struct as struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrec import mesh as meshes
from jaxrec.structs import KVCache

GLOBAL, LOCAL = LAYER_TYPES = ("global", "local")


def cache_name(stack: str, layer_type: str = GLOBAL) -> str:
    """The name under which a cache holds the keys of a stack's layers of one type."""
    return stack if layer_type == GLOBAL else f"{stack}/{layer_type}"


def new_cache(
    stacks: Mapping[str, int],
    batch: int,
    slots: int,
    groups: int,
    head_dim: int,
    dtype: str = "float32",
    rings: Mapping[str, int] | None = None,
    window: int = 0,
) -> KVCache:
    """An empty cache.

    Args:
      stacks: the number of layers of each stack that see everything; a stack without one is left out.
      batch: rows.
      slots: the longest text that a row can hold, in tokens.
      groups: key heads.
      head_dim: size of a head.
      dtype: of keys and values.
      rings: the number of local layers of each stack that has any.
      window: slots of a local layer, unless a whole text has less.
    """
    sizes = {name: (layers, slots) for name, layers in stacks.items()}
    for name, layers in (rings or {}).items():
        sizes[cache_name(name, LOCAL)] = (layers, min(window, slots))
    empty = lambda: {
        name: meshes.put(jnp.zeros((layers, batch, groups, own, head_dim), dtype), "cache")
        for name, (layers, own) in sizes.items()
    }
    return KVCache(k=empty(), v=empty(), filled_B=jnp.zeros((batch,), jnp.int32))


def slots_in(cache: KVCache) -> int | None:
    """How many tokens a row can hold; None where all layers are local, and a row can hold any number."""
    whole = (k.shape[3] for name, k in cache.k.items() if not name.endswith(f"/{LOCAL}"))
    return next(whole, None)


def slots_for(
    mask_BL: Bool[Array, "B L"], filled_B: Int[Array, " B"], n_slots: int
) -> Int[Array, "B L"]:
    """The slot of each token: a row's real tokens in order from `filled`; padding gets a slot that does not exist."""
    order_BL = jnp.cumsum(mask_BL.astype(jnp.int32), axis=1) - 1
    # A slot beyond the end, together with mode="drop" in `write`, is how padding leaves no gap in a row.
    return jnp.where(mask_BL, filled_B[:, None] + order_BL, n_slots)


@struct.dataclass
class LayerCache:
    """Layer `n` of one stack's keys and values, and where the present tokens go."""

    k: Float[Array, "N B G M K"]
    v: Float[Array, "N B G M K"]
    slots_BL: Int[Array, "B L"]
    n: int | Int[Array, ""]
    ring: bool = struct.field(pytree_node=False, default=False)  # of a local layer

    def extend(
        self, k_BGLK: Float[Array, "B G L K"], v_BGLK: Float[Array, "B G L K"]
    ) -> tuple[Float[Array, "B G M K"], Float[Array, "B G M K"], "LayerCache"]:
        """(keys, values, the cache with these tokens in it): what the tokens can see, themselves included.

        Those are the slots; of a ring that several tokens enter at once, its slots before them and then the tokens:
        the first of them still sees what the last of them overwrites.
        """
        after = self.write(k_BGLK, v_BGLK)
        if not self.ring or k_BGLK.shape[2] == 1:
            return *after.read(), after
        k, v = self.read()
        join = lambda old, new: jnp.concatenate([old, new.astype(old.dtype)], axis=2)
        return join(k, k_BGLK), join(v, v_BGLK), after

    def write(
        self, k_BGLK: Float[Array, "B G L K"], v_BGLK: Float[Array, "B G L K"]
    ) -> "LayerCache":
        """Puts the tokens into their slots; those whose slot does not exist (padding) are dropped."""
        # The indices broadcast to [B, G, L], so one scatter writes all rows. The stack's whole cache goes through the
        # scan as its carry: given in and out a layer at a time, a second cache would be written at every token.
        if meshes.in_force() is not None:
            put = lambda x, new: meshes.put(_write_own(x, self.n, self.slots_BL, new), "cache")
            return self.replace(k=put(self.k, k_BGLK), v=put(self.v, v_BGLK))
        rows = jnp.arange(k_BGLK.shape[0])[:, None, None]
        heads = jnp.arange(k_BGLK.shape[1])[None, :, None]
        at = (self.n, rows, heads, self.slots_BL[:, None, :])
        put = lambda x, new: x.at[at].set(new.astype(x.dtype), mode="drop")
        return self.replace(k=put(self.k, k_BGLK), v=put(self.v, v_BGLK))

    def read(self) -> tuple[Float[Array, "B G M K"], Float[Array, "B G M K"]]:
        """Keys and values of this layer."""
        return self.k[self.n], self.v[self.n]


def _write_own(x_NBGMK: Array, n: int | Array, slots_BL: Array, new_BGLK: Array) -> Array:
    """`new` in the slots of layer n, where rows and heads lie on different devices.

    Rows and heads are batch dimensions here and no indices: of indices the compiler does not see that no device writes
    into another's rows, and gathers all of them.
    """
    b, g, length, _ = new_BGLK.shape
    slots_BGL = jnp.broadcast_to(slots_BL[:, None], (b, g, length))
    at_BGLI = jnp.stack([jnp.full_like(slots_BGL, n), slots_BGL], axis=-1)
    how = jax.lax.ScatterDimensionNumbers(
        update_window_dims=(3,),
        inserted_window_dims=(0, 3),
        scatter_dims_to_operand_dims=(0, 3),
        operand_batching_dims=(1, 2),
        scatter_indices_batching_dims=(0, 1),
    )
    return jax.lax.scatter(x_NBGMK, at_BGLI, new_BGLK.astype(x_NBGMK.dtype), how, mode="drop")

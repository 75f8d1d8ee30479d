"""Floor 2: the key-value cache of a tuple of stacks, and one layer's view of it while a scan carries it."""

import flax.struct as struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrec import mesh as meshes
from jaxrec.structs import KVCache


def new_cache(
    stacks: dict[str, int],
    batch: int,
    slots: int,
    groups: int,
    head_dim: int,
    dtype: str = "float32",
) -> KVCache:
    """An empty cache.

    Args:
      stacks: the number of layers of each stack.
      batch: rows.
      slots: the longest text that a row can hold, in tokens.
      groups: key heads.
      head_dim: size of a head.
      dtype: of keys and values.
    """
    empty = lambda: {
        n: meshes.put(jnp.zeros((k, batch, groups, slots, head_dim), dtype), "cache")
        for n, k in stacks.items()
    }
    return KVCache(k=empty(), v=empty(), filled_B=jnp.zeros((batch,), jnp.int32))


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

    def write(
        self, k_BGLK: Float[Array, "B G L K"], v_BGLK: Float[Array, "B G L K"]
    ) -> "LayerCache":
        """Puts the tokens into their slots; those whose slot does not exist (padding) are dropped."""
        # The indices broadcast to [B, G, L], so one scatter writes all rows. The stack's whole cache goes through the
        # scan as its carry: given in and out a layer at a time, a second cache would be written at every token.
        rows = jnp.arange(k_BGLK.shape[0])[:, None, None]
        heads = jnp.arange(k_BGLK.shape[1])[None, :, None]
        at = (self.n, rows, heads, self.slots_BL[:, None, :])
        put = lambda x, new: meshes.put(x.at[at].set(new.astype(x.dtype), mode="drop"), "cache")
        return self.replace(k=put(self.k, k_BGLK), v=put(self.v, v_BGLK))

    def read(self) -> tuple[Float[Array, "B G M K"], Float[Array, "B G M K"]]:
        """Keys and values of this layer."""
        return self.k[self.n], self.v[self.n]

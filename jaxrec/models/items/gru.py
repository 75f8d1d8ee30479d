"""Floor 3: GRU4Rec (Hidasi et al. 2016): one recurrent layer over a person's items, on packed rows.

h = GRU(h, item), z = W h + b, score of item i = z . v_i. The state begins anew where the next person begins.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxrec import mesh as meshes
from jaxrec.data.history_rows import Count, HistoryRows
from jaxrec.nn.dropout import dropout
from jaxrec.nn.embed import Embed
from jaxrec.nn.layers import Dense, weight


@dataclasses.dataclass(frozen=True)
class GRUConfig:
    """What a GRU4Rec is made of. `items` is set by whoever has the data. The defaults are RecBole's, D 64."""

    items: int = 0
    d_model: int = 64
    d_hidden: int = 128
    max_length: int = 50
    dropout: float = 0.3
    count: Count = "end"  # of no consequence: a GRU knows no positions
    init_std: float = 0.02


class GRU(nn.Module):
    """The whole model: rows of histories to the vectors z that items are scored by."""

    cfg: GRUConfig

    @nn.compact
    def __call__(
        self, rows: HistoryRows, key_B: Key[Array, " B"] | None = None
    ) -> Float[Array, "B L D"]:
        """z at every position; `key_B`: one key a row while training, None: no dropout."""
        c = self.cfg
        x_BLD = Embed(c.items, c.d_model, c.init_std, name="items")(jnp.maximum(rows.items_BL, 0))
        x_BLD = meshes.put(dropout(x_BLD, c.dropout, key_B, 0), "residual")
        # The inputs of all steps and all three gates are one product, outside the scan; only the recurrence is inside.
        into_BLW = Dense(3 * c.d_hidden, True, c.d_model**-0.5, name="input")(x_BLD)
        orthogonal = nn.initializers.orthogonal()
        kernel = weight(self, "recurrent", (c.d_hidden, 3 * c.d_hidden), orthogonal)
        segments_BL = meshes.put(rows.segments_BL, "rows")
        before_BL = jnp.pad(segments_BL[:, :-1], ((0, 0), (1, 0)))
        # Several people share a row: where the segment changes, the state must not be carried on.
        goes_on_BL = (segments_BL == before_BL) & (segments_BL > 0)

        parts = meshes.row_parts(len(segments_BL))
        if parts > 1:
            # The kernel's gradient is added up over time: once for each part of the rows, or devices would meet at
            # every step.
            kernel = meshes.put(jnp.broadcast_to(kernel, (parts, *kernel.shape)), "rows")

        def recur(h_BX: Array) -> Array:
            if parts == 1:
                return h_BX @ kernel
            h_SBX = h_BX.reshape(parts, -1, c.d_hidden)
            return jnp.einsum("sbx,sxw->sbw", h_SBX, kernel).reshape(len(h_BX), -1)

        def one(h_BX: Array, part: tuple[Array, Array]) -> tuple[Array, Array]:
            into_BW, goes_on_B = part
            # A where and no loop over people: their histories end at different places of the rows.
            h_BX = jnp.where(goes_on_B[:, None], h_BX, 0)
            reset, update, new = jnp.split(into_BW, 3, axis=1)
            old_reset, old_update, old_new = jnp.split(recur(h_BX), 3, axis=1)
            keep = jax.nn.sigmoid(update + old_update)
            # The reset gate comes after the product (cuDNN's and torch's form), so that one product serves all gates.
            new = jnp.tanh(new + jax.nn.sigmoid(reset + old_reset) * old_new)
            h_BX = meshes.put(keep * h_BX + (1 - keep) * new, "residual")
            return h_BX, h_BX

        start = jnp.zeros((len(segments_BL), c.d_hidden), x_BLD.dtype)
        # A scan runs over the leading axis: time goes in front, and back.
        _, h_LBX = jax.lax.scan(one, start, (into_BLW.swapaxes(0, 1), goes_on_BL.swapaxes(0, 1)))
        return Dense(c.d_model, True, c.d_hidden**-0.5, name="output")(h_LBX.swapaxes(0, 1))

    def item_vectors(self) -> Float[Array, "I D"]:
        """v, the vectors that z is multiplied with."""
        return jnp.asarray(self.get_variable("params", "items")["table"])

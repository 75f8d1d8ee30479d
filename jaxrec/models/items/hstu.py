"""Floor 3: HSTU (Zhai et al. 2024): pointwise attention that counts instead of averaging, on packed rows.

    u, v, q, k = silu(norm(x) W);   a = silu(q k^T + b) / L;   x + W_o (norm(a v) * u)

b is learned by distance in places and, where the data have times, by the logarithm of the time between two items. No
softmax: how much there is of something stays visible. Scores are cosines by a temperature, as in the public recipe for
ML-1M.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxrec import mesh as meshes
from jaxrec.data.history_rows import Count, HistoryRows
from jaxrec.models.items.sequential import drop_rows, scale_to_cosine, unit, unseen
from jaxrec.nn.embed import Embed
from jaxrec.nn.layers import Dense, Norm, weight

_TIMES = 64  # buckets; bucket n begins at exp(0.301 n) seconds, so 64 of them reach seven years


@dataclasses.dataclass(frozen=True)
class HSTUConfig:
    """What an HSTU is made of. `items` is set by whoever has the data. The defaults are the public ML-1M recipe's."""

    items: int = 0
    d_model: int = 50
    layers: int = 2
    heads: int = 1
    head_dim: int = 50  # of queries, keys and values
    max_length: int = 200
    dropout: float = 0.2
    times: bool = True  # learn from the time between items, where the data have it
    count: Count = "start"
    temperature: float = 0.05  # 0: plain inner products
    norm_eps: float = 1e-6
    init_std: float = 0.02


class HSTUBlock(nn.Module):
    """One layer."""

    cfg: HSTUConfig

    @nn.compact
    def __call__(
        self,
        x_TD: Array,
        hidden_BLM: Array,
        bucket_BLM: Int[Array, "B L L"] | None,
        key_B: Array | None,
        site: int,
    ) -> Float[Array, "T D"]:
        """x with what it attends to added (Zhai 2024): pointwise weights by SiLU instead of a softmax.

        Args:
          x_TD: the residual stream, all rows' positions one after another.
          hidden_BLM: who may not see whom.
          bucket_BLM: the bucket of the time between two items, where times are known.
          key_B: a key a row, for dropout; None when not training.
          site: tells this layer's dropout from the others'.
        """
        c = self.cfg
        d, (b, length, _) = x_TD.shape[1], hidden_BLM.shape
        width = c.heads * c.head_dim
        normal = nn.initializers.normal(c.init_std)
        y = Norm("layer", c.norm_eps, name="in_norm")(x_TD)
        y = jax.nn.silu(Dense(4 * width, False, c.init_std, name="uvqk")(y))
        u, v, q, k = jnp.split(y, 4, axis=-1)
        # Heads before places, the order in which attention multiplies.
        heads = lambda y: y.reshape(b, length, c.heads, c.head_dim).transpose(0, 2, 1, 3)
        scores = jnp.einsum("bhlk,bhmk->bhlm", heads(q), heads(k))
        by_place = weight(self, "by_place", (c.max_length,), normal)
        places = jnp.arange(length)
        # Later keys are hidden anyway; the clip keeps their index in the table.
        back_LM = jnp.clip(places[:, None] - places[None], 0, c.max_length - 1)
        bias_BLM = by_place[back_LM][None]
        if bucket_BLM is not None:
            bias_BLM = bias_BLM + weight(self, "by_time", (_TIMES,), normal)[bucket_BLM]
        # Divided by the longest length, a constant, and not by how many are seen: then more evidence is a larger sum.
        weights = jax.nn.silu(scores + bias_BLM[:, None]) * (1 / c.max_length)
        # Without a softmax a hidden score is not made small but left out: silu's value for it would still count.
        weights = jnp.where(hidden_BLM[:, None], 0, weights)
        out = jnp.einsum("bhlm,bhmk->bhlk", weights, heads(v))
        out = out.transpose(0, 2, 1, 3).reshape(b * length, width)
        # The sums grow with what is seen, for they are no means; the norm makes them comparable before u gates them.
        out = Norm("layer", c.norm_eps, name="out_norm")(out) * u
        out = drop_rows(out, c.dropout, key_B, site)
        return x_TD + Dense(d, True, math.sqrt(2 / (d + width)), name="o")(out)


class HSTU(nn.Module):
    """The whole model: rows of histories to the vectors z that items are scored by."""

    cfg: HSTUConfig

    def setup(self):
        c = self.cfg
        self.items = Embed(c.items, c.d_model, c.init_std)
        self.positions = Embed(c.max_length, c.d_model, math.sqrt(1 / c.d_model))
        self.blocks = [HSTUBlock(c) for _ in range(c.layers)]

    def __call__(
        self, rows: HistoryRows, key_B: Key[Array, " B"] | None = None
    ) -> Float[Array, "B L D"]:
        """z at every position; `key_B`: one key a row while training, None: no dropout."""
        c = self.cfg
        rows = meshes.put(jax.tree.map(jnp.asarray, rows), "rows")
        hidden_BLM = unseen(rows.segments_BL)
        # Scaled by sqrt(D), as in the public code: a table with numbers of .02 would vanish beside the positions.
        x_TD = self.items(jnp.maximum(rows.items_BL, 0).reshape(-1)) * math.sqrt(c.d_model)
        x_TD = x_TD + self.positions(rows.positions_BL.reshape(-1))
        x_TD = meshes.put(drop_rows(x_TD, c.dropout, key_B, 0), "residual")
        bucket = None
        if c.times and rows.times_BL is not None:
            # Times of another person's items say nothing: hidden pairs get bucket 0, whose weight is then not used.
            bucket = jnp.where(hidden_BLM, 0, time_bucket(rows.times_BL))
        for n, block in enumerate(self.blocks):
            x_TD = meshes.put(block(x_TD, hidden_BLM, bucket, key_B, 1 + n), "residual")
        return scale_to_cosine(x_TD, c.temperature).reshape(*rows.items_BL.shape, -1)

    def item_vectors(self) -> Float[Array, "I D"]:
        """v, the vectors that z is multiplied with."""
        return unit(self.items.table) if self.cfg.temperature else jnp.asarray(self.items.table)


def time_bucket(times_BL: Array) -> Int[Array, "B L L"]:
    """The logarithmic bucket of the time from each key to each query: 0 for a second or less."""
    # The difference is taken between whole seconds: f32 cannot tell neighbouring seconds of today apart.
    passed_BLM = (times_BL[:, :, None] - times_BL[:, None, :]).astype(jnp.float32)
    return jnp.clip(jnp.log(jnp.maximum(passed_BLM, 1)) / 0.301, 0, _TIMES - 1).astype(jnp.int32)

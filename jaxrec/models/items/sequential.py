"""Floor 3: SASRec: a causal transformer over the items that somebody took, on packed rows.

    z = encode(items before), score of item i = z . v_i, v: the table that the items enter by (tied)

"post" is the form of S3-Rec's and RecBole's code, the one behind most published tables: norm and dropout on the input,
norm after each residual, GELU inside of 4 D. "pre" is the original one (Kang & McAuley 2018): items scaled by sqrt(D),
queries normed and keys not, ReLU inside of D, a norm at the end.
"""

import dataclasses
import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from jaxrec import mesh as meshes
from jaxrec.data.history_rows import Count, HistoryRows
from jaxrec.nn.dropout import dropout
from jaxrec.nn.embed import Embed
from jaxrec.nn.layers import Dense, Mlp, Norm

_SITES = 8  # dropout sites of one block


@dataclasses.dataclass(frozen=True)
class SASRecConfig:
    """What a SASRec is made of. `items` is set by whoever has the data. The defaults are S3-Rec's, for Beauty."""

    items: int = 0
    d_model: int = 64
    layers: int = 2
    heads: int = 2
    d_ff: int = 256
    max_length: int = 50
    dropout: float = 0.5
    attention_dropout: float = 0.5
    form: Literal["post", "pre"] = "post"
    count: Count = "end"  # where positions are counted from
    temperature: float = 0.0  # scores are cosines divided by it; 0: plain inner products
    norm_eps: float = 1e-12
    init_std: float = 0.02

    def __post_init__(self):
        if self.d_model % self.heads:
            raise ValueError(f"width {self.d_model} does not divide into {self.heads} heads")


class CausalAttention(nn.Module):
    """Softmax attention within the segments of packed rows, dropout on its weights."""

    cfg: SASRecConfig

    @nn.compact
    def __call__(
        self,
        x_TD: Float[Array, "T D"],
        memory_TD: Float[Array, "T D"],
        hidden_BLM: Bool[Array, "B L L"],
        key_B: Array | None,
        site: int,
    ) -> Float[Array, "T D"]:
        """Queries of x over the memory.

        Args:
          x_TD: what asks, all rows' positions one after another.
          memory_TD: what is looked at (x itself in the post form).
          hidden_BLM: who may not see whom.
          key_B: a key a row, for dropout; None when not training.
          site: tells this layer's dropout from the others'.
        """
        c = self.cfg
        d, (b, length, _) = x_TD.shape[1], hidden_BLM.shape
        # [q k v, B, heads, L, K]: heads lie before places, the order in which attention multiplies.
        heads = lambda y: y.reshape(b, length, -1, c.heads, d // c.heads).transpose(2, 0, 3, 1, 4)
        project = lambda name, width: Dense(width, True, c.init_std, name=name)
        # Queries, keys and values of the same vectors are one product instead of three.
        if x_TD is memory_TD:
            q, k, v = heads(project("qkv", 3 * d)(x_TD))
        else:
            (q,) = heads(project("q", d)(x_TD))
            k, v = heads(project("kv", 2 * d)(memory_TD))
        scores = jnp.einsum("bhlk,bhmk->bhlm", q, k) * (1 / math.sqrt(d // c.heads))
        weights = jax.nn.softmax(jnp.where(hidden_BLM[:, None], -1e9, scores), axis=-1)
        # After the softmax, and not renormalised: as in the code behind the published tables.
        weights = dropout(weights, c.attention_dropout, key_B, site)
        out = jnp.einsum("bhlm,bhmk->bhlk", weights, v)
        return project("o", d)(out.transpose(0, 2, 1, 3).reshape(b * length, d))


class SASRecBlock(nn.Module):
    """One layer, in the post or the pre form."""

    cfg: SASRecConfig

    @nn.compact
    def __call__(
        self, x_TD: Array, hidden_BLM: Array, key_B: Array | None, site: int
    ) -> Float[Array, "T D"]:
        """x after attention and feed-forward.

        Args:
          x_TD: the residual stream, all rows' positions one after another.
          hidden_BLM: who may not see whom.
          key_B: a key a row, for dropout; None when not training.
          site: tells this layer's dropout from the others'.
        """
        c = self.cfg
        norm = lambda name: Norm("layer", c.norm_eps, name=name)
        attention = CausalAttention(c, name="attn")
        drop = lambda y, at: drop_rows(y, c.dropout, key_B, site + at)
        post = c.form == "post"
        activation = "gelu" if post else "relu"
        mlp = Mlp(c.d_ff, False, activation, True, c.init_std, c.init_std, name="mlp")
        if post:
            y = attention(x_TD, x_TD, hidden_BLM, key_B, site)
            x_TD = norm("attn_norm")(x_TD + drop(y, 1))
            return norm("mlp_norm")(x_TD + drop(mlp(x_TD), 2))
        # Kang and McAuley's own code: queries are normed and keys are not, and the residual adds to the normed queries.
        q = norm("attn_norm")(x_TD)
        x_TD = norm("mlp_norm")(q + drop(attention(q, x_TD, hidden_BLM, key_B, site), 1))
        return x_TD + drop(mlp(x_TD), 2)


class SASRec(nn.Module):
    """The whole model: rows of histories to the vectors z that items are scored by.

    Inside, positions are one axis of length B L: the gradient of a matrix takes a third of the time on CPUs.
    """

    cfg: SASRecConfig

    def setup(self):
        c = self.cfg
        self.items = Embed(c.items, c.d_model, c.init_std)
        self.positions = Embed(c.max_length, c.d_model, c.init_std)
        self.norm = Norm("layer", c.norm_eps)
        self.blocks = [SASRecBlock(c) for _ in range(c.layers)]

    def __call__(
        self, rows: HistoryRows, key_B: Key[Array, " B"] | None = None
    ) -> Float[Array, "B L D"]:
        """z at every position; `key_B`: one key a row while training, None: no dropout."""
        c = self.cfg
        rows = meshes.put(jax.tree.map(jnp.asarray, rows), "rows")
        hidden_BLM = unseen(rows.segments_BL)
        # Padding is item -1: it reads row 0, and no real position sees it, because its segment is another one.
        x_TD = self.items(jnp.maximum(rows.items_BL, 0).reshape(-1))
        if c.form == "pre":
            x_TD = x_TD * math.sqrt(c.d_model)
        x_TD = x_TD + self.positions(rows.positions_BL.reshape(-1))
        if c.form == "post":
            x_TD = self.norm(x_TD)
        x_TD = meshes.put(drop_rows(x_TD, c.dropout, key_B, 0), "residual")
        for n, block in enumerate(self.blocks):
            x_TD = meshes.put(block(x_TD, hidden_BLM, key_B, 1 + n * _SITES), "residual")
        z_TD = scale_to_cosine(self.norm(x_TD) if c.form == "pre" else x_TD, c.temperature)
        return z_TD.reshape(*rows.items_BL.shape, -1)

    def item_vectors(self) -> Float[Array, "I D"]:
        """v, the vectors that z is multiplied with."""
        return unit(self.items.table) if self.cfg.temperature else jnp.asarray(self.items.table)


def drop_rows(
    x_TD: Float[Array, "T D"], rate: float, key_B: Key[Array, " B"] | None, site: int
) -> Float[Array, "T D"]:
    """Dropout of positions that lie row after row, each by its row's key.

    Args:
      x_TD: all rows' positions one after another.
      rate: in [0, 1).
      key_B: a key a row; None: x as it is.
      site: tells the places of one model apart.
    """
    if key_B is None:
        return x_TD
    return dropout(x_TD.reshape(len(key_B), -1), rate, key_B, site).reshape(x_TD.shape)


def scale_to_cosine(z_TD: Float[Array, "T D"], temperature: float) -> Float[Array, "T D"]:
    """z so that its product with unit item vectors is cosine / temperature; as it is for temperature 0."""
    return unit(z_TD) / temperature if temperature else z_TD


def unit(x: Float[Array, "T D"]) -> Float[Array, "T D"]:
    """x scaled to length 1 over the last axis."""
    # The epsilon is inside the root: at a zero vector the gradient is finite instead of NaN.
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


def unseen(segments_BL: Array) -> Bool[Array, "B L L"]:
    """Which keys a query may not see: later ones, and those of other people."""
    length = segments_BL.shape[1]
    later = ~jnp.tril(jnp.ones((1, length, length), bool))
    return later | (segments_BL[:, :, None] != segments_BL[:, None, :])

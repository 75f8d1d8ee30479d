"""Floor 3: decoder-only generative recommendation: the next item's semantic id, code by code, at every place at once.

A history is packed beside others (`data.history_rows`); each of its items enters as one token, the sum of its codes'
vectors. What follows tells two forms apart:

    nested  x_1        x_2        x_3            one causal trunk over items; a level's MLP reads the trunk's state and
             |          |          |             the codes chosen so far (RQ-Transformer, Lee 2022, with an MLP
            c c c      c c c      c c c          for its depth transformer)

    flat    x_1 c c    x_2 c c    x_3 c c        one causal transformer over everything: after an item its successor's
                                                 codes but the last, then the successor itself

Both give p(c_q | history, c_0 ... c_q-1) of every level at every place. Nested costs Q times fewer tokens in the trunk,
and a beam in it is one vector; flat lets every code look at every earlier code. On Beauty an epoch at width 128 takes
14 CPU seconds nested and 29 flat (three levels); an encoder-decoder (`models.tiger`) reads each history once for every
place. Which form a row of the tables is of stands in its name; configs/recommend/beauty_generative.py is nested.
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import flax.struct as struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxrec.models.items.code_layers import BeamCache, Layer, LayersConfig, beam_cache, through
from jaxrec.nn.attention import self_mask
from jaxrec.nn.dropout import dropout
from jaxrec.nn.layers import Norm

SITE = 1000  # the first of the dropout sites that are no layer's


@dataclasses.dataclass(frozen=True)
class CodeDecoderConfig:
    """A decoder-only recommender over `sizes[q]` codes at level q."""

    sizes: tuple[int, ...] = (256, 256, 256)
    form: Literal["nested", "flat"] = "nested"
    layers: LayersConfig = LayersConfig()
    d_depth: int = 256  # nested: hidden width of a level's MLP
    code_dropout: float = 0.0  # how often a level of an item of the history is left out
    input_dropout: float = 0.2
    tied: bool = True  # one table of code vectors at both ends

    @property
    def levels(self) -> int:
        return len(self.sizes)


@struct.dataclass
class NestedBeams:
    """All that a beam of the nested form is: the trunk's state plus the vectors of the codes chosen so far."""

    state_BJD: Array


class CodeTable(nn.Module):
    """A vector for each code of each level [Q, C, D], C the largest level's size."""

    sizes: tuple[int, ...]
    width: int
    init_std: float = 0.02

    def setup(self):
        shape = (len(self.sizes), max(self.sizes), self.width)
        self.table = self.param("table", nn.initializers.normal(self.init_std), shape)

    def __call__(self, codes_BLQ: Array, first: int = 0) -> Array:
        """Vectors [B, L, Q, D] of codes of the levels from `first` on."""
        level = first + jnp.arange(codes_BLQ.shape[-1])
        # Levels share one table [Q * C, D]: a single gather reads all of them.
        at = codes_BLQ + level[None, None] * self.table.shape[1]
        return jnp.take(self.table.reshape(-1, self.width), at, axis=0)

    def logits(self, x_BLQD: Array, first: int = 0) -> Array:
        """Scores [B, L, Q, C] of every code of the levels from `first` on; a code that a level lacks gets -1e9."""
        # Static, so a beam at one level multiplies the codes of that level alone.
        levels = slice(first, first + x_BLQD.shape[2])
        y = jnp.einsum("blqd,qcd->blqc", x_BLQD, self.table[levels])
        there = np.arange(self.table.shape[1])[None] < np.array(self.sizes)[levels, None]
        return jnp.where(there[None, None], y, -1e9)


class CodeDecoder(nn.Module):
    """The decoder-only model in either form. Levels are numbered 0...Q-1."""

    cfg: CodeDecoderConfig

    def setup(self):
        c, d = self.cfg, self.cfg.layers.d_model
        normal = nn.initializers.normal(c.layers.init_std)
        self.codes = CodeTable(c.sizes, d, c.layers.init_std)
        self.head = self.codes if c.tied else CodeTable(c.sizes, d, c.layers.init_std)
        self.trunk = [Layer(c.layers, n) for n in range(c.layers.layers)]
        self.level = self.param("level", normal, (c.levels, d))
        self.norm = Norm("rms")
        if c.form == "nested":
            self.depth_norm = Norm("rms")
            self.up = self.param("up", nn.initializers.normal(0.05), (c.levels, d, c.d_depth))
            self.down = self.param("down", normal, (c.levels, c.d_depth, d))

    def __call__(
        self,
        codes_BLQ: Int[Array, "B L Q"],
        next_BLQ: Int[Array, "B L Q"],
        segments_BL: Int[Array, "B L"],
        positions_BL: Int[Array, "B L"],
        key_B: Array | None = None,
    ) -> Float[Array, "B L Q C"]:
        """Logits of each level's codes of the item that follows each place, given that item's codes before (teacher
        forcing).

        Args:
          codes_BLQ: the items of packed histories.
          next_BLQ: the item that follows each.
          segments_BL: tells the histories of a row apart; 0 is padding.
          positions_BL: of an item in its history.
          key_B: a key a row, for dropout; None when not training.
        """
        # One vector an item in either form: what differs is where its codes are predicted.
        x_BLD = self._items(codes_BLQ, key_B)
        before_BLQD = self.codes(next_BLQ[:, :, :-1])
        if self.cfg.form == "nested":
            seen = self_mask(segments_BL > 0, True, segments_BL)
            x_BLD, _ = through(self.trunk, x_BLD, seen, positions_BL, key_B=key_B)
            # Level q's MLP sees the sum of the codes before it: a single vector at every level, all that a beam keeps.
            so_far = jnp.cumsum(before_BLQD, axis=2)
            so_far = jnp.pad(so_far, ((0, 0), (0, 0), (1, 0), (0, 0)))
            return self._depth(self._dropped(x_BLD[:, :, None] + so_far, key_B, 2), 0, key_B)
        b, length, levels = codes_BLQ.shape
        x_BLQD = jnp.concatenate([x_BLD[:, :, None], self._dropped(before_BLQD, key_B, 3)], axis=2)
        x_BLD = (x_BLQD + self.level[None, None]).reshape(b, length * levels, -1)
        spread = lambda y_BL: jnp.repeat(y_BL, levels, axis=1)
        inside = jnp.tile(jnp.arange(levels), length)[None]
        seen = self_mask(spread(segments_BL > 0), True, spread(segments_BL))
        places = spread(positions_BL) * levels + inside
        x_BLD, _ = through(self.trunk, x_BLD, seen, places, key_B=key_B)
        return self.head.logits(self.norm(x_BLD).reshape(b, length, levels, -1))

    # ------------------------------------------------------------------------------ beam search

    def start(
        self, codes_BLQ: Int[Array, "B L Q"], mask_BL: Bool[Array, "B L"], free: int
    ) -> tuple[NestedBeams | BeamCache, Float[Array, "B 1 C"]]:
        """(what the beams grow from, logits of the first level) after histories that end at the right edge.

        free: how many tokens all beams of a row will add before the last level.
        """
        levels = self.cfg.levels
        place_BL = jnp.maximum(jnp.cumsum(mask_BL, axis=1) - 1, 0)
        x_BLD = self._items(codes_BLQ, None) * mask_BL[:, :, None]  # nobody's history is a zero
        if self.cfg.form == "nested":
            x_BLD, _ = through(self.trunk, x_BLD, self_mask(mask_BL, True), place_BL)
            state = x_BLD[:, -1:]
            return NestedBeams(state), self._depth(state[:, :, None], 0)[:, :, 0]
        b, length = mask_BL.shape
        # What follows item n is item n + 1, whose last code is never read, only predicted.
        after_BLQ = jnp.pad(codes_BLQ[:, 1:, :-1], ((0, 0), (0, 1), (0, 0)))
        x_BLQD = jnp.concatenate([x_BLD[:, :, None], self.codes(after_BLQ)], axis=2)
        x_BLD = (x_BLQD + self.level[None, None]).reshape(b, length * levels, -1)
        # of the newest item only its own token: what follows it is what is asked
        tokens = (length - 1) * levels + 1
        spread = lambda y_BL: jnp.repeat(y_BL, levels, axis=1)[:, :tokens]
        mask = spread(mask_BL)
        places = spread(place_BL) * levels + jnp.tile(jnp.arange(levels), length)[None, :tokens]
        cache = beam_cache(self.cfg.layers, mask, places[:, -1], free)
        seen = jnp.pad(self_mask(mask, True), ((0, 0), (0, 0), (0, free)))
        x_BLD, cache = through(self.trunk, x_BLD[:, :tokens], seen, places, cache)
        return cache, self.head.logits(self.norm(x_BLD[:, -1:])[:, :, None])[:, :, 0]

    def extend(
        self,
        beams: NestedBeams | BeamCache,
        level: int,
        code_BJ: Int[Array, "B J"],
        parent_BJ: Int[Array, "B J"],
    ) -> tuple[NestedBeams | BeamCache, Float[Array, "B J C"]]:
        """The beams that choose `code_BJ` at `level` after `parent_BJ`, and the logits of the next level."""
        chosen_BJD = self.codes(code_BJ[:, :, None], level)[:, :, 0]
        if self.cfg.form == "nested":
            state = jnp.take_along_axis(beams.state_BJD, parent_BJ[:, :, None], axis=1) + chosen_BJD
            return NestedBeams(state), self._depth(state[:, :, None], level + 1)[:, :, 0]
        slot, beams = beams.filled, beams.follow(parent_BJ)
        x_BJD = chosen_BJD + self.level[level + 1][None, None]
        places = jnp.broadcast_to(beams.position_B[:, None], code_BJ.shape)
        x_BJD, beams = through(self.trunk, x_BJD, beams.seen_BJM, places, beams, slot)
        return beams, self.head.logits(self.norm(x_BJD)[:, :, None], level + 1)[:, :, 0]

    # ---------------------------------------------------------------------------------- inside

    def _items(self, codes_BLQ: Array, key_B: Array | None) -> Array:
        """Each item as one vector, the sum of its codes'."""
        x_BLQD = self.codes(codes_BLQ)
        if key_B is not None and self.cfg.code_dropout:
            ones = jnp.ones((*codes_BLQ.shape, 1))
            # A code is left out as a whole: the model must then go by the item's other levels.
            x_BLQD = x_BLQD * dropout(ones, self.cfg.code_dropout, key_B, SITE)
        return self._dropped(x_BLQD.sum(2), key_B, 1)

    def _dropped(self, x: Array, key_B: Array | None, place: int) -> Array:
        return dropout(x, self.cfg.input_dropout, key_B, SITE + place)

    def _depth(self, x_BLQD: Array, first: int, key_B: Array | None = None) -> Array:
        """Logits of the levels from `first` on, each from its own state, by that level's own MLP."""
        levels = slice(first, first + x_BLQD.shape[2])
        x_BLQD = x_BLQD + self.level[levels][None, None]
        h = jnp.einsum("blqd,qdf->blqf", self.depth_norm(x_BLQD), self.up[levels])
        y = jnp.einsum("blqf,qfd->blqd", jax.nn.relu(h), self.down[levels])
        y = dropout(y, self.cfg.layers.dropout, key_B, SITE + 4)
        return self.head.logits(self.norm(x_BLQD + y), first)


def item_vectors(
    table_QCD: Float[Array, "Q C D"], codes_IQ: Int[Array, "I Q"]
) -> Float[Array, "I D"]:
    """What the model knows of each item: the sum of its codes' vectors. Items alike in their first codes are close."""
    at = codes_IQ + jnp.arange(codes_IQ.shape[1])[None] * table_QCD.shape[1]
    return jnp.take(table_QCD.reshape(-1, table_QCD.shape[2]), at, axis=0).sum(1)

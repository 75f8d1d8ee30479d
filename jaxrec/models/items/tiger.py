"""Floor 3: TIGER (Rajput 2023): an encoder reads a history's codes both ways, a decoder writes the next item's.

    user, c c c, c c c, ... --encoder--> memory;    begin, c_0, c_1 ... --decoder over the memory--> c_0, c_1, c_2 ...

One history and one target a row: each place of a history is an example of its own, so an epoch reads a history of n
items n times, where the decoder-only form reads it once. The person is one of `users` hashed tokens. Rotary positions
stand where the paper's T5 has relative-position buckets.
"""

import dataclasses

import flax.linen as nn
import flax.struct as struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrec.models.items.code_layers import BeamCache, Layer, LayersConfig, beam_cache, through
from jaxrec.models.items.generative_rec import SITE, CodeTable
from jaxrec.nn.attention import self_mask
from jaxrec.nn.dropout import dropout
from jaxrec.nn.embed import Embed
from jaxrec.nn.layers import Norm


@dataclasses.dataclass(frozen=True)
class TigerConfig:
    """The paper's: 4 + 4 layers, 128 wide, 6 heads of 64, 1024 in the MLPs, dropout .1, 2,000 user tokens."""

    sizes: tuple[int, ...] = (256, 256, 256)
    layers: LayersConfig = LayersConfig(
        d_model=128, layers=4, heads=6, head_dim=64, d_ff=1024, dropout=0.1
    )
    users: int = 2000  # 0: no user token
    tied: bool = True

    @property
    def levels(self) -> int:
        return len(self.sizes)


@struct.dataclass
class TigerBeams:
    """The decoder's cache, and keys and values of the memory, one pair a layer, which all beams of a row share."""

    cache: BeamCache
    memories: list[tuple[Array, Array]]
    mask_BM: Array


class Tiger(nn.Module):
    """The encoder-decoder. It answers `start` and `extend` as `CodeDecoder` does."""

    cfg: TigerConfig

    def setup(self):
        c, size = self.cfg, self.cfg.layers
        normal = nn.initializers.normal(size.init_std)
        self.codes = CodeTable(c.sizes, size.d_model, size.init_std)
        self.head = self.codes if c.tied else CodeTable(c.sizes, size.d_model, size.init_std)
        self.encoder = [Layer(size, n, causal=False) for n in range(size.layers)]
        self.decoder = [Layer(size, size.layers + n, cross=True) for n in range(size.layers)]
        self.begin = self.param("begin", normal, (size.d_model,))
        self.memory_norm, self.norm = Norm("rms"), Norm("rms")
        if c.users:
            self.user = Embed(c.users, size.d_model, size.init_std)

    def __call__(
        self,
        codes_BLQ: Int[Array, "B L Q"],
        mask_BL: Bool[Array, "B L"],
        user_B: Int[Array, " B"],
        next_BQ: Int[Array, "B Q"],
        key_B: Array | None = None,
    ) -> Float[Array, "B Q C"]:
        """Logits of each level of the next item, given its codes before (teacher forcing; TIGER, Rajput 2023).

        Args:
          codes_BLQ: the items of each history.
          mask_BL: which of them are there.
          user_B: -1 for somebody unknown.
          next_BQ: the next item.
          key_B: a key a row, for dropout; None when not training.
        """
        memories, mask_BM = self._memories(codes_BLQ, mask_BL, user_B, key_B)
        # The last code is only predicted: nothing of this item comes after it.
        x_BLD = self.codes(next_BQ[:, None, :-1])[:, 0]
        begin = jnp.broadcast_to(self.begin, (x_BLD.shape[0], 1, x_BLD.shape[2]))
        x_BLD = self._dropped(jnp.concatenate([begin, x_BLD], axis=1), key_B, 1)
        seen = self_mask(jnp.ones(x_BLD.shape[:2], bool), True)
        places = jnp.broadcast_to(jnp.arange(x_BLD.shape[1])[None], x_BLD.shape[:2])
        x_BLD, _ = through(
            self.decoder,
            x_BLD,
            seen,
            places,
            memories=memories,
            memory_mask_BM=mask_BM,
            key_B=key_B,
        )
        return self.head.logits(self.norm(x_BLD)[:, None])[:, 0]

    def start(
        self,
        codes_BLQ: Int[Array, "B L Q"],
        mask_BL: Bool[Array, "B L"],
        free: int,
        user_B: Int[Array, " B"] | None = None,
    ) -> tuple[TigerBeams, Float[Array, "B 1 C"]]:
        """(what the beams grow from, logits of the first level).

        Args:
          codes_BLQ: the items of each history.
          mask_BL: which of them are there.
          free: tokens of beams that there is room for.
          user_B: -1, or None at all, for somebody unknown.
        """
        rows = mask_BL.shape[0]
        user_B = jnp.full((rows,), -1) if user_B is None else user_B
        memories, mask_BM = self._memories(codes_BLQ, mask_BL, user_B, None)
        x_B1D = jnp.broadcast_to(self.begin, (rows, 1, self.cfg.layers.d_model))
        first = jnp.zeros((rows,), jnp.int32)
        # The prefix that all beams share is the single token `begin`; the history is in the memory.
        cache = beam_cache(self.cfg.layers, jnp.ones((rows, 1), bool), first, free)
        beams = TigerBeams(cache, memories, mask_BM)
        return self._step(beams, x_B1D, cache, 0, 0)

    def extend(
        self,
        beams: TigerBeams,
        level: int,
        code_BJ: Int[Array, "B J"],
        parent_BJ: Int[Array, "B J"],
    ) -> tuple[TigerBeams, Float[Array, "B J C"]]:
        """The beams that choose `code_BJ` at `level` after `parent_BJ`, and the logits of the next level."""
        x_BJD = self.codes(code_BJ[:, :, None], level)[:, :, 0]
        return self._step(
            beams, x_BJD, beams.cache.follow(parent_BJ), beams.cache.filled, level + 1
        )

    # ---------------------------------------------------------------------------------- inside

    def _step(
        self, beams: TigerBeams, x_BJD: Array, cache: BeamCache, slot: int, level: int
    ) -> tuple[TigerBeams, Array]:
        places = jnp.broadcast_to(cache.position_B[:, None], x_BJD.shape[:2])
        x_BJD, cache = through(
            self.decoder, x_BJD, cache.seen_BJM, places, cache, slot, beams.memories, beams.mask_BM
        )
        logits = self.head.logits(self.norm(x_BJD)[:, :, None], level)[:, :, 0]
        return beams.replace(cache=cache), logits

    def _memories(
        self, codes_BLQ: Array, mask_BL: Array, user_B: Array, key_B: Array | None
    ) -> tuple[list[tuple[Array, Array]], Array]:
        """Keys and values of the encoded history, one pair a layer, and which of them are real."""
        b, length, levels = codes_BLQ.shape
        # Every code is a token, where the decoder-only form makes one token of an item.
        x_BLD = self.codes(codes_BLQ).reshape(b, length * levels, -1)
        mask = jnp.repeat(mask_BL, levels, axis=1)
        if self.cfg.users:
            known = (user_B >= 0)[:, None]
            # Hashed by the remainder, as the paper does to bound the vocabulary; somebody unknown is masked out.
            user_B1D = self.user(jnp.maximum(user_B, 0)[:, None] % self.cfg.users)
            x_BLD = jnp.concatenate([user_B1D, x_BLD], axis=1)
            mask = jnp.concatenate([known, mask], axis=1)
        # Counted over real tokens, so padding at the left leaves no gap; its own -1 becomes a position that exists.
        places = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)
        x_BLD = self._dropped(x_BLD, key_B, 0)
        x_BLD, _ = through(self.encoder, x_BLD, self_mask(mask, False), places, key_B=key_B)
        # Keys and values are made once a history: all beams and all levels read the same.
        memory = self.memory_norm(x_BLD)
        return [layer.remember(memory) for layer in self.decoder], mask

    def _dropped(self, x: Array, key_B: Array | None, place: int) -> Array:
        return dropout(x, self.cfg.layers.dropout, key_B, SITE + place)

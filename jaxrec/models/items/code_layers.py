"""Floor 3: the layers of which generative recommenders are made: pre-norm attention and MLP, with dropout.

As in `nn.decoder.Block` every layer can write its keys and values into a cache and attends under any mask, so the beams
of a search lie beside each other in one row, each seeing its own ancestors (`BeamCache`): nothing is copied when
beams are dropped or forked.
"""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import flax.struct as struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrec import mesh as meshes
from jaxrec.nn.attention import Attention
from jaxrec.nn.cache import LayerCache
from jaxrec.nn.dropout import dropout
from jaxrec.nn.layers import Mlp, Norm
from jaxrec.nn.rope import rotary


@dataclasses.dataclass(frozen=True)
class LayersConfig:
    """Width, depth and dropout of one pile of layers."""

    d_model: int = 128
    layers: int = 3
    heads: int = 4
    head_dim: int = 32
    d_ff: int = 512
    activation: str = "relu"
    dropout: float = 0.2
    rope_theta: float = 10000.0
    init_std: float = 0.02

    def __post_init__(self):
        if self.layers < 1 or self.head_dim % 2:
            raise ValueError(
                f"{self.layers} layers of heads {self.head_dim} wide: at least one, and even"
            )


class Layer(nn.Module):
    """One layer. `number` tells its dropout from that of the others; `cross` adds attention over a memory."""

    cfg: LayersConfig
    number: int = 0
    cross: bool = False
    causal: bool = True

    def setup(self):
        c = self.cfg
        # Two sublayers a layer add to the residual stream; smaller starts keep its variance flat in depth (GPT-2).
        out_std = c.init_std / (2 * c.layers) ** 0.5
        attention = lambda cross: Attention(
            c.d_model, c.heads, c.heads, c.head_dim, cross=cross, causal=self.causal,
            init_std=c.init_std, out_std=out_std,
        )  # fmt: skip
        self.attn_norm, self.attn = Norm("rms"), attention(False)
        if self.cross:
            self.cross_norm, self.over = Norm("rms"), attention(True)
        self.mlp_norm = Norm("rms")
        self.mlp = Mlp(c.d_ff, False, c.activation, False, c.init_std, out_std)

    def __call__(
        self,
        x_BLD: Array,
        seen_BLM: Array,
        turn: tuple[Array, Array],
        key_B: Array | None = None,
        cache: LayerCache | None = None,
        memory: tuple[Array, Array] | None = None,
        memory_mask_BM: Array | None = None,
    ) -> tuple[Array, LayerCache | None]:
        """x after the layer, and the cache with these tokens in it.

        Args:
          x_BLD: the residual stream.
          seen_BLM: which keys, or slots of the cache, each token sees.
          turn: rotary (cos, sin).
          key_B: dropout's, a key a row; None when not training.
          cache: this layer's view of the cache.
          memory: keys and values from `remember`, for a layer with `cross`.
          memory_mask_BM: which places of the memory are there.
        """
        # Eight numbers a layer keep apart the places of one layer, and those of neighbouring layers.
        drop = lambda x, place: dropout(x, self.cfg.dropout, key_B, 8 * self.number + place)
        y, cache = self.attn(self.attn_norm(x_BLD), seen_BLM, turn=turn, cache=cache)
        x_BLD = x_BLD + drop(y, 1)
        if self.cross:
            y = self.over.over(self.cross_norm(x_BLD), memory, memory_mask_BM)
            x_BLD = x_BLD + drop(y, 2)
        return x_BLD + drop(self.mlp(self.mlp_norm(x_BLD)), 3), cache

    def remember(self, memory_BMD: Array) -> tuple[Array, Array]:
        """Keys and values of a memory for `cross`."""
        return self.over.remember(memory_BMD)


@struct.dataclass
class BeamCache:
    """Keys and values [N, B, H, M, K] of a prefix that all beams of a row share, and of the beams' own tokens after it.

    `filled` slots are taken. seen_BJM: which slots each beam looks at, its prefix and its own ancestors.
    `position_B` is the place of the newest token in its sequence.
    """

    k: Array
    v: Array
    seen_BJM: Array
    position_B: Array
    filled: int = struct.field(pytree_node=False)

    def follow(self, parent_BJ: Int[Array, "B J"]) -> "BeamCache":
        """The cache for new beams, one token each, that grow from `parent_BJ` of the present ones."""
        count = parent_BJ.shape[1]
        seen_BJM = jnp.take_along_axis(self.seen_BJM, parent_BJ[:, :, None], axis=1)
        # Beam j's new token will lie in slot filled + j, and it sees itself as well as what its parent saw.
        own_JM = jnp.arange(seen_BJM.shape[2])[None] == self.filled + jnp.arange(count)[:, None]
        return self.replace(
            seen_BJM=seen_BJM | own_JM[None],
            position_B=self.position_B + 1,
            filled=self.filled + count,
        )


def beam_cache(
    cfg: LayersConfig, mask_BL: Bool[Array, "B L"], last_B: Int[Array, " B"], free: int
) -> BeamCache:
    """An empty cache.

    Args:
      cfg: of the layers.
      mask_BL: real tokens of the prefix that all beams of a row share.
      last_B: the position of its last one.
      free: tokens of beams that there is room for behind it.
    """
    b, length = mask_BL.shape
    shape = (cfg.layers, b, cfg.heads, length + free, cfg.head_dim)
    # All slots exist from the start, since shapes are fixed; the free ones are seen by nobody until `follow` says so.
    seen_BM = jnp.pad(mask_BL, ((0, 0), (0, free)))
    empty = lambda: meshes.put(jnp.zeros(shape), "cache")
    return BeamCache(empty(), empty(), seen_BM[:, None], last_B, length)


def turns(cfg: LayersConfig, positions_BL: Int[Array, "B L"]) -> tuple[Array, Array]:
    """The rotary (cos, sin) of positions, for all layers."""
    return rotary(positions_BL, cfg.head_dim, cfg.rope_theta)


def through(
    layers: Sequence[Layer],
    x_BLD: Float[Array, "B L D"],
    seen_BLM: Bool[Array, "B L M"],
    positions_BL: Int[Array, "B L"],
    cache: BeamCache | None = None,
    first_slot: int = 0,
    memories: Sequence[tuple[Array, Array]] | None = None,
    memory_mask_BM: Bool[Array, "B M2"] | None = None,
    key_B: Array | None = None,
) -> tuple[Float[Array, "B L D"], BeamCache | None]:
    """x through all layers, and the cache with these tokens in it.

    Args:
      layers: bound modules, one after another.
      x_BLD: what enters the first.
      seen_BLM: which keys, or slots of the cache, each token sees.
      positions_BL: of the tokens.
      cache: keys and values so far.
      first_slot: where in the cache these tokens go, one after another.
      memories: keys and values of a memory for each layer.
      memory_mask_BM: which places of the memory are there.
      key_B: dropout's, a key a row; None when not training.
    """
    # Angles depend on positions alone and are the same in all layers.
    turn = turns(layers[0].cfg, meshes.put(positions_BL, "rows"))
    x_BLD, seen_BLM = meshes.put((x_BLD, seen_BLM), "rows")
    slots_BL = jnp.broadcast_to(first_slot + jnp.arange(x_BLD.shape[1])[None], x_BLD.shape[:2])
    for n, layer in enumerate(layers):
        part = None if cache is None else LayerCache(cache.k, cache.v, slots_BL, n)
        # Every layer has its own keys and values of the memory, made by its own matrices.
        memory = None if memories is None else memories[n]
        x_BLD, part = layer(x_BLD, seen_BLM, turn, key_B, part, memory, memory_mask_BM)
        x_BLD = meshes.put(x_BLD, "residual")
        if part is not None:
            cache = cache.replace(k=part.k, v=part.v)
    return x_BLD, cache

"""Floor 2: bidirectional encoders: BERT (all of the MiniLM family) and MPNet, and sentence vectors from them.

    ids_BL -> word + position (+ type) -> norm -> post-norm layers -> hidden states -> mean over tokens, length 1

The same deltas as a decoder's enter through the same functions. Positions count real tokens only, so padding at either
side changes nothing.
"""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrec import mesh as meshes
from jaxrec.delta import Sites, StackSites
from jaxrec.nn.attention import Attention, distance_bias
from jaxrec.nn.cache import GLOBAL
from jaxrec.nn.embed import Embed, enter
from jaxrec.nn.layers import ACTIVATIONS, Mlp, Norm, adapt, change_at, weight
from jaxrec.nn.stack import REMAT, resolve_hidden, run_stacks, stack_sizes
from jaxrec.structs import Delta, HeadOutput, LayerDelta, OuterDelta


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """What an encoder is made of. The defaults are all-MiniLM-L6-v2's."""

    vocab: int = 30522
    d_model: int = 384
    layers: int = 6
    heads: int = 12
    d_ff: int = 1536
    activation: str = "gelu"
    norm_eps: float = 1e-12
    max_positions: int = 512  # rows of the position table
    first_position: int = 0  # its row for the first token (MPNet: 2, after the padding's)
    types: int = 2  # token types (BERT: 2; only type 0 is used), 0 for none
    distance_buckets: int = (
        0  # relative attention bias shared by all layers (MPNet: 32), 0 for none
    )
    init_std: float = 0.02
    cuts: tuple[int, ...] = ()
    dtype: str = "float32"
    remat: str = "none"

    def __post_init__(self):
        stack_sizes(self.layers, self.cuts)
        if self.d_model % self.heads:
            raise ValueError(f"width {self.d_model} does not divide into {self.heads} heads")
        for name, known in (("activation", ACTIVATIONS), ("remat", REMAT)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name}={getattr(self, name)!r}: choose one of {', '.join(known)}"
                )

    @property
    def max_length(self) -> int:
        """The longest text, in tokens."""
        return self.max_positions - self.first_position


class EncoderBlock(nn.Module):
    """One post-norm layer: norm(x + attention(x)), then norm(x + mlp(x))."""

    cfg: EncoderConfig

    @nn.compact
    def __call__(
        self,
        x_BLD: Array,
        delta: LayerDelta | None = None,
        cache: None = None,
        *,
        mask_BLM: Array,
        positions: tuple[Array, Array],
        bias_BHLM: Array | None = None,
    ) -> tuple[Array, None]:
        """(the residual stream after this layer, None: an encoder has no cache).

        Args:
          x_BLD: the residual stream.
          delta: this layer's changes, leaves without N.
          cache: always None; `run_stacks` hands one to every block.
          mask_BLM: which keys each query sees.
          positions: those of (queries, keys), for a distance bias.
          bias_BHLM: added to the scores: the model's own distance bias (MPNet).
        """
        c = self.cfg
        norm = lambda name, x: Norm("layer", c.norm_eps, name=name)(
            x, change_at(delta, "norm", name)
        )
        attention = Attention(
            c.d_model, c.heads, c.heads, c.d_model // c.heads, True, True, causal=False,
            init_std=c.init_std, out_std=c.init_std, name="attn",
        )  # fmt: skip
        mlp = Mlp(c.d_ff, False, c.activation, True, c.init_std, c.init_std, name="mlp")
        y, _ = attention(x_BLD, mask_BLM, delta, positions=positions, bias_BHLM=bias_BHLM)
        x_BLD = norm("attn_norm", x_BLD + y)
        y = adapt(mlp(x_BLD, delta), change_at(delta, "adapter", "mlp"))
        return norm("mlp_norm", x_BLD + y), None


class Encoder(nn.Module):
    """The whole model."""

    cfg: EncoderConfig

    @nn.compact
    def __call__(
        self,
        ids_BL: Int[Array, "B L"] | None,
        mask_BL: Bool[Array, "B L"] | None = None,
        *,
        positions_BL: Int[Array, "B L"] | None = None,
        segments_BL: Int[Array, "B L"] | None = None,
        inputs_BLD: Float[Array, "B L D"] | None = None,
        delta: Delta | None = None,
        hidden: Sequence[int] = (-1,),
    ) -> HeadOutput:
        """`hidden[j]` of the output is HF's `hidden_states[hidden[j]]` [B, L, D], without a soft prompt's rows.

        Args:
          ids_BL: tokens.
          mask_BL: True at real tokens.
          positions_BL, segments_BL: of texts that share a row.
          inputs_BLD: word embeddings in place of those of ids_BL.
          delta: changes for each row, or one for all. A soft prompt takes the first positions.
          hidden: which hidden states are given; -1 is the last.
        """
        c = self.cfg
        hidden = resolve_hidden(hidden, c.layers)
        outer = OuterDelta() if delta is None else delta.outer
        if outer.head is not None:
            raise ValueError(
                "an encoder has no output head that the delta's head LoRA could change"
            )
        words = Embed(c.vocab, c.d_model, c.init_std, name="embed")
        x_BLD = (words(ids_BL) if inputs_BLD is None else inputs_BLD).astype(c.dtype)
        mask_BL = jnp.ones(x_BLD.shape[:2], bool) if mask_BL is None else mask_BL
        entry = enter(x_BLD, mask_BL, positions_BL, segments_BL, outer, causal=False)
        length = entry.x_BLD.shape[1]
        if length > c.max_length:
            raise ValueError(f"{length} tokens, but this encoder has {c.max_length} positions")
        x_BLD = self._embed(entry.x_BLD, entry.positions_BL)
        context = {
            "mask_BLM": entry.seen_BLM,
            "positions": (entry.positions_BL, entry.positions_BL),
        }
        if c.distance_buckets:
            # Padding never lies between a text's own tokens, so places, the same for all rows, give their
            # distances; but with left padding it lies between a soft prompt and them.
            places = entry.positions_BL if entry.shared else jnp.arange(length)[None]
            normal = nn.initializers.normal(c.init_std)
            # MPNet's layers share one table, so the bias is made once, before them.
            table = weight(self, "distance_bias", (c.heads, c.distance_buckets), normal)
            context["bias_BHLM"] = distance_bias(table[None], places, places, causal=False)
        x_BLD = meshes.put(x_BLD, "residual")
        x_BLD, _, states = run_stacks(
            self, EncoderBlock(c, parent=None), stack_sizes(c.layers, c.cuts), x_BLD, {GLOBAL: context},
            delta=delta, hidden=hidden, remat=c.remat,
        )  # fmt: skip
        own = slice(entry.shared, None)
        states = states | {c.layers: x_BLD}
        return HeadOutput(hidden=tuple(states[i][:, own] for i in hidden))

    def _embed(self, x_BLD: Array, positions_BL: Array) -> Array:
        """Words, positions and type 0 summed and normed."""
        c = self.cfg
        places = Embed(c.max_positions, c.d_model, c.init_std, name="positions")
        x_BLD = x_BLD + places(positions_BL + c.first_position).astype(x_BLD.dtype)
        if c.types:
            normal = nn.initializers.normal(c.init_std)
            # Every text here is a single one, BERT's type 0. The other row is kept, so that published weights fit.
            kinds = weight(self, "types", (c.types, c.d_model), normal)
            x_BLD = x_BLD + kinds[0].astype(x_BLD.dtype)[None, None]
        return Norm("layer", c.norm_eps, name="embed_norm")(x_BLD)

    @staticmethod
    def sites(cfg: EncoderConfig) -> Sites:
        """Where an encoder of this config can be changed."""
        d, f = cfg.d_model, cfg.d_ff
        lora = {"q": (d, d), "k": (d, d), "v": (d, d), "o": (d, d), "up": (d, f), "down": (f, d)}
        stacks = {
            name: StackSites(
                n_layers=n,
                lora=lora,
                adapter={"attn": d, "mlp": d},
                prefix={"attn": (cfg.heads, cfg.heads, d // cfg.heads)},
                norm={"attn_norm": d, "mlp_norm": d},
                scale={site: out for site, (_, out) in lora.items()} | {"hidden": f},
                attn_bias={"attn": cfg.heads},
            )
            for name, n in stack_sizes(cfg.layers, cfg.cuts).items()
        }
        return Sites(stacks=stacks, d_model=d, vocab=cfg.vocab)


def mean_pool(x_BLD: Float[Array, "B L D"], mask_BL: Bool[Array, "B L"]) -> Float[Array, "B D"]:
    """The mean over real tokens, in f32; zero for a row that has none."""
    weight_BL1 = mask_BL[:, :, None].astype(jnp.float32)
    return (x_BLD * weight_BL1).sum(1) / jnp.maximum(weight_BL1.sum(1), 1.0)


def segment_means(
    x_BLD: Float[Array, "B L D"], segments_BL: Int[Array, "B L"], most: int
) -> Float[Array, "B S D"]:
    """`mean_pool` of each of a row's segments 1 ... `most`; zero for one that is not there."""
    # As a matrix [S, L] of weights, so that the means of all texts of a row are one product.
    own_BSL = segments_BL[:, None, :] == jnp.arange(1, most + 1)[None, :, None]
    weight_BSL = own_BSL / jnp.maximum(own_BSL.sum(-1, keepdims=True), 1)
    return jnp.einsum("bsl,bld->bsd", weight_BSL, x_BLD.astype(jnp.float32))


def unit(x: Float[Array, "*b D"]) -> Float[Array, "*b D"]:
    """x scaled to length 1; zero stays zero. Of a mean over tokens: Sentence-BERT's vector (Reimers 2019)."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)

"""The generative tenant preference head: a small decoder that reads Z and speaks in a tenant's voice.

    memory = [z_cls ; z_seq ; retrieved z]  --(optional encoder)-->  keys and values, made once a turn
    answer ids -> embed -> N x (self-attention, cross-attention over the memory, MLP) -> norm -> logits

The memory is attended to, never decoded (the Transformer's cross-attention, Vaswani 2017; Perceiver IO, Jaegle 2022),
so a token costs what the head costs, however large the backbone is. p is no input of its own: it arrives as a `Delta`
(an offset to the first token, a soft prompt, conditional norms, a LoRA, ...) that A(p) makes for these `sites`. So a
head without a tenant is the same program with delta None.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct as struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxrec import mesh as meshes
from jaxrec.delta import Sites, StackSites
from jaxrec.models.personal.vocabulary import Vocabulary, bar_padding, principal
from jaxrec.nn.attention import Attention
from jaxrec.nn.cache import LayerCache, new_cache
from jaxrec.nn.decoder import DecoderConfig, last_real
from jaxrec.nn.embed import Embed, enter
from jaxrec.nn.layers import Dense, Mlp, Norm, adapt, change_at, low_rank
from jaxrec.nn.rope import rotary
from jaxrec.nn.stack import check_stacks, stack_sizes
from jaxrec.quant import whole
from jaxrec.structs import Delta, HeadOutput, KVCache, LayerDelta, LFEOutput, OuterDelta

STACK = "stack_0"  # a head has one stack; its one or two layers are unrolled, not scanned


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """Size of a generative head."""

    vocab: int = 2048
    d_model: int = 128
    layers: int = 2
    heads: int = 4
    d_ff: int = 352
    d_z: int = 128
    memory_encoder: bool = False  # one self-attention layer over the memory before it is read
    rope_theta: float = 10000.0
    init_std: float = 0.02
    groups: int = 0  # key heads; 0: as many as heads
    tied_to_backbone: bool = (
        False  # ids are read and scored by the frozen backbone's tables: no table of its own
    )
    d_backbone: int = 0  # width of those tables; taken from the backbone
    tokens: int = 0  # ids that the tokenizer has, where the table has more rows; 0: all

    def __post_init__(self):
        if self.tokens > self.vocab:
            raise ValueError(f"{self.tokens} tokens in a vocabulary of {self.vocab}")
        if self.d_model % self.heads or self.heads % self.key_heads:
            raise ValueError(
                f"width {self.d_model} must divide into {self.heads} heads, and these share {self.key_heads} key heads"
            )

    @property
    def key_heads(self) -> int:
        return self.groups or self.heads

    @property
    def head_dim(self) -> int:
        return self.d_model // self.heads


@struct.dataclass
class Memory:
    """What a head can attend to. `segment`: 0 the turn's own Z, 1 and above the retrieved passages."""

    z_BMD: Array
    mask_BM: Array
    segment_BM: Array


@struct.dataclass
class Recall:
    """A memory made ready for decoding: keys and values of every layer. Made once a turn, read at every token."""

    k_NBGMK: Array
    v_NBGMK: Array
    mask_BM: Array
    segment_BM: Array


def memory_of(turn: LFEOutput, retrieved: LFEOutput | None = None) -> Memory:
    """z_cls, then z_seq, then what was retrieved (z_seq of passages joined along L by the caller)."""
    # Every place carries its segment, so that an attention bias made from p can weigh a tenant's passages against
    # the question itself.
    z = [turn.z_cls_BD[:, None], turn.z_seq_BLD]
    # z_cls of a row without a token is zero and says nothing, so it is hidden like the rest of that row.
    mask = [turn.mask_BL.any(-1, keepdims=True), turn.mask_BL]
    segment = [jnp.zeros((turn.mask_BL.shape[0], 1 + turn.mask_BL.shape[1]), jnp.int32)]
    if retrieved is not None:
        z, mask = [*z, retrieved.z_seq_BLD], [*mask, retrieved.mask_BL]
        segment.append(jnp.ones(retrieved.mask_BL.shape, jnp.int32))
    join = lambda xs: jnp.concatenate(xs, axis=1)
    return Memory(join(z), join(mask), join(segment))


class HeadBlock(nn.Module):
    """One layer: self-attention over the answer so far, cross-attention over the memory, MLP."""

    cfg: HeadConfig

    def setup(self):
        c = self.cfg
        # Three sublayers add to the residual stream of each layer here, not two as in GPT-2, whose scaling this is.
        out_std = c.init_std / (3 * c.layers) ** 0.5
        attention = lambda cross: Attention(
            c.d_model,
            c.heads,
            c.key_heads,
            c.head_dim,
            cross=cross,
            init_std=c.init_std,
            out_std=out_std,
        )
        # Two sets of matrices: their sites in a Delta are apart, so p may change one and not the other.
        self.attn, self.cross = attention(False), attention(True)
        self.attn_norm, self.cross_norm, self.mlp_norm = Norm(), Norm(), Norm()
        self.mlp = Mlp(c.d_ff, init_std=c.init_std, out_std=out_std)

    def remember(self, memory_BMD: Array, delta: LayerDelta | None) -> tuple[Array, Array]:
        """This layer's keys and values of the memory."""
        return self.cross.remember(memory_BMD, delta)

    def __call__(
        self,
        x_BLD: Array,
        recall: Recall,
        layer: int,
        delta: LayerDelta | None = None,
        cache: LayerCache | None = None,
        *,
        mask_BLM: Array,
        turn: tuple[Array, Array],
        positions: tuple[Array, Array],
    ) -> tuple[Array, LayerCache | None]:
        """(the residual stream after this layer, the cache with these tokens in it).

        Self-attention over the answer so far and cross-attention over the memory each add to the stream, as in the
        Transformer's decoder (Vaswani 2017); that Z is read by attention and never joined to the answer is Perceiver
        IO's way (Jaegle 2022): the cost of a token does not grow with the backbone.

        Args:
          x_BLD: the residual stream.
          recall: the memory's keys and values of all layers.
          layer: the number of this one among them.
          delta: this layer's changes, leaves without N.
          cache: this layer's view of the answer's cache.
          mask_BLM: which keys of the answer each query sees.
          turn: rotary (cos, sin).
          positions: those of (queries, keys), for a distance bias.
        """
        norm = lambda name: getattr(self, name)(x_BLD, change_at(delta, "norm", name))
        attended, cache = self.attn(
            norm("attn_norm"), mask_BLM, delta, turn=turn, positions=positions, cache=cache
        )
        # Each sublayer reads the stream after the one before it: `norm` above takes x_BLD as it stands when called.
        x_BLD = x_BLD + attended
        memory = recall.k_NBGMK[layer], recall.v_NBGMK[layer]
        x_BLD = x_BLD + self.cross.over(
            norm("cross_norm"), memory, recall.mask_BM, delta, recall.segment_BM
        )
        fed = self.mlp(norm("mlp_norm"), delta)
        return x_BLD + adapt(fed, change_at(delta, "adapter", "mlp")), cache


class GenerativeHead(nn.Module):
    """TPH A: generates an answer from Z. Its parameters are shared by all tenants."""

    cfg: HeadConfig

    def setup(self):
        c = self.cfg
        if c.tied_to_backbone:
            # isometries: of equal width nothing is changed, otherwise lengths and angles are, as far as there is room
            self.from_table = Dense(c.d_model, kernel_init=isometry)
            self.to_table = Dense(c.d_backbone, kernel_init=isometry)
        else:
            self.embed = Embed(c.vocab, c.d_model, c.init_std)
        # Z's numbers are of size 1, an embedding table's are not: this matrix keeps their variance (1 / sqrt(fan in)).
        self.into = Dense(c.d_model, init_std=c.d_z**-0.5)
        self.into_norm = Norm()
        if c.memory_encoder:
            self.reader = Attention(
                c.d_model, c.heads, c.key_heads, c.head_dim, causal=False, init_std=c.init_std
            )
            self.reader_norm = Norm()
        self.layer = [HeadBlock(c) for _ in range(c.layers)]
        self.norm = Norm()

    def remember(self, memory: Memory, delta: Delta | None = None) -> Recall:
        """The memory's keys and values at every layer."""
        x_BMD = self.into(memory.z_BMD)
        if self.cfg.memory_encoder:
            # Both ways and over the retrieved passages too: the question can read them before the answer does.
            seen = memory.mask_BM[:, None, :] & memory.mask_BM[:, :, None]
            x_BMD = x_BMD + self.reader(self.reader_norm(x_BMD), seen)[0]
        # Normed once for all layers: Z comes from a frozen backbone whose scale the layers know nothing of.
        x_BMD = self.into_norm(x_BMD)
        kv = [b.remember(x_BMD, d) for b, d in zip(self.layer, self._deltas(delta), strict=True)]
        k, v = (jnp.stack(x) for x in zip(*kv, strict=True))
        return Recall(k, v, memory.mask_BM, memory.segment_BM)

    def __call__(
        self,
        ids_BL: Int[Array, "B L"],
        mask_BL: Bool[Array, "B L"],
        recall: Recall,
        *,
        delta: Delta | None = None,
        cache: KVCache | None = None,
        logits: str = "all",
        vocabulary: Vocabulary | None = None,
    ) -> HeadOutput:
        """Logits of an answer so far. The first real token of a row (its BOS) gets p's offset, where p has one.

        Args:
          ids_BL: the answer so far; with a cache its next chunk.
          mask_BL: real tokens.
          recall: the memory, from `remember`.
          delta: each row's changes, or None for nobody in particular.
          cache: keys and values of the answer so far.
          logits: "all" -> [B, L, V], "last" -> [B, 1, V] at each row's last real token, "none" -> hidden states alone.
          vocabulary: the backbone's, for a head that is tied to it.
        """
        c = self.cfg
        outer = OuterDelta() if delta is None else delta.outer
        entry = enter(self._vectors(ids_BL, vocabulary), mask_BL, None, None, outer, cache)
        x_BLD = entry.x_BLD
        context = {
            "mask_BLM": entry.seen_BLM,
            "turn": rotary(entry.positions_BL, c.head_dim, c.rope_theta),
            "positions": (entry.positions_BL, entry.key_positions_BM),
        }
        # A loop and not `run_stacks`: one or two layers are unrolled anyway, and each has its own part of `recall`.
        kv = None if cache is None else (cache.k[STACK], cache.v[STACK])
        for n, (block, change) in enumerate(zip(self.layer, self._deltas(delta), strict=True)):
            view = None if kv is None else LayerCache(*kv, entry.positions_BL, n)
            x_BLD, view = block(x_BLD, recall, n, change, view, **context)
            x_BLD = meshes.put(x_BLD, "residual")
            kv = None if view is None else (view.k, view.v)
        # A soft prompt's rows stand in front; what is returned has the rows of `ids_BL` alone.
        x_BLD = self.norm(x_BLD[:, x_BLD.shape[1] - ids_BL.shape[1] :])
        if logits == "last":
            x_BLD = last_real(x_BLD, mask_BL)
        if cache is not None:
            cache = KVCache({STACK: kv[0]}, {STACK: kv[1]}, entry.filled_B)
        out = HeadOutput(hidden=x_BLD, cache=cache)
        if logits == "none" and not self.is_initializing():
            return out
        y = self._scores(x_BLD, vocabulary)
        if outer.head is not None:
            y = y + low_rank(x_BLD, outer.head)
        return out.replace(logits=bar_padding(y.astype(jnp.float32), c.tokens))

    def answer(
        self,
        ids_BL: Array,
        mask_BL: Array,
        memory: Memory,
        delta: Delta | None = None,
        vocabulary: Vocabulary | None = None,
        logits: str = "all",
    ) -> HeadOutput:
        """Teacher forcing: the memory read and the whole answer scored in one pass.

        Args:
          ids_BL, mask_BL: the answer.
          memory: what it is an answer to.
          delta, vocabulary, logits: as of a call.
        """
        recall = self.remember(memory, delta)
        return self(ids_BL, mask_BL, recall, delta=delta, logits=logits, vocabulary=vocabulary)

    def outward(self, hidden_BLD: Array) -> Array:
        """A tied head's hidden states in the backbone's own space, where they meet its table."""
        return self.to_table(hidden_BLD)

    def _vectors(self, ids_BL: Array, vocabulary: Vocabulary | None) -> Array:
        if not self.cfg.tied_to_backbone:
            return self.embed(ids_BL)
        if vocabulary is None:
            raise ValueError("this head is tied to its backbone's table: give it the vocabulary")
        return self.from_table(vocabulary.vectors(ids_BL))

    def _scores(self, x_BLD: Array, vocabulary: Vocabulary | None) -> Array:
        if not self.cfg.tied_to_backbone:
            return self.embed.attend(x_BLD)
        return vocabulary.scores(self.to_table(x_BLD))

    def _deltas(self, delta: Delta | None) -> list[LayerDelta | None]:
        # The same Delta layout as a scanned stack's (leaves lead with N), taken apart for the loop over layers.
        check_stacks(delta, [STACK])
        layers = self.cfg.layers
        if delta is None or STACK not in delta.stacks:
            return [None] * layers
        xs, make = delta.stacks[STACK].by_layer()
        one = lambda n: make(jax.tree.map(lambda x: x[n], xs))
        return [meshes.put_own(one(n)) for n in range(layers)]

    @staticmethod
    def sites(cfg: HeadConfig) -> Sites:
        """Where a head of this config can be changed."""
        d, f = cfg.d_model, cfg.d_ff
        keys = (d, cfg.key_heads * cfg.head_dim)
        attention = {"q": (d, d), "k": keys, "v": keys, "o": (d, d)}
        crossing = {f"cross_{site}": size for site, size in attention.items()}
        lora = {**attention, **crossing, "gate": (d, f), "up": (d, f), "down": (f, d)}
        stack = StackSites(
            n_layers=cfg.layers,
            lora=lora,
            adapter=dict.fromkeys(("attn", "cross", "mlp"), d),
            prefix=dict.fromkeys(("attn", "cross"), (cfg.heads, cfg.key_heads, cfg.head_dim)),
            norm=dict.fromkeys(("attn_norm", "cross_norm", "mlp_norm"), d),
            scale={site: out for site, (_, out) in lora.items()} | {"hidden": f},
            attn_bias={"attn": cfg.heads, "cross": cfg.heads},
        )
        return Sites({STACK: stack}, d_model=d, vocab=cfg.vocab)


def head_cache(cfg: HeadConfig, batch: int, slots: int) -> KVCache:
    """An empty cache for answers of at most `slots` tokens (a soft prompt's rows included)."""
    return new_cache({STACK: cfg.layers}, batch, slots, cfg.key_heads, cfg.head_dim)


def isometry(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Float[Array, "D F"]:
    """A matrix [D, F] that keeps lengths and angles as far as it has room: the identity where D = F."""
    if shape[0] == shape[1]:
        return jnp.eye(shape[0], dtype=dtype)
    return nn.initializers.orthogonal()(key, shape, dtype)


def warm_start(params: PyTree, cfg: HeadConfig, backbone: PyTree, decoder: DecoderConfig) -> PyTree:
    """A new head that begins with what a decoder knows of the language: its embedding and evenly spaced layers of it.

    The embedding needs equal vocabulary and width; the layers' self-attention and MLP need equal sizes throughout too.
    A narrower head that is tied to the decoder's table begins with the table's main directions (`principal`). What does
    not fit stays as it is, so the result is always a head of `cfg`.

    Args:
      params: of the new head.
      cfg: of the head.
      backbone: the decoder's parameters.
      decoder: its config.
    """
    # Isometries of random directions would throw away most of the table; its own main directions lose the least.
    if cfg.tied_to_backbone and cfg.d_model < decoder.d_model:
        narrow_DR = principal(backbone["embed"]["table"], cfg.d_model)
        tables = {"from_table": narrow_DR, "to_table": narrow_DR.T}
        return {**params, **{name: {"kernel": kernel} for name, kernel in tables.items()}}
    if (cfg.vocab, cfg.d_model) != (decoder.vocab, decoder.d_model):
        return params
    if not cfg.tied_to_backbone:
        params = {**params, "embed": {"table": backbone["embed"]["table"]}}
    # Sizes alone are not enough: under another rope_theta or norm the same weights would attend to other places.
    own = (cfg.heads, cfg.key_heads, cfg.head_dim, cfg.d_ff, cfg.rope_theta, "rms", 0)
    d = decoder
    if own != (d.heads, d.groups, d.head_dim, d.d_ff, d.rope_theta, d.norm, d.window):
        return params
    layers = [
        jax.tree.map(lambda x, n=n: x[n], backbone[name])
        for name, size in stack_sizes(d.layers, d.cuts).items()
        for n in range(size)
    ]
    for i in range(cfg.layers):
        # of a quantised backbone the floats that its codes say: a head's layers are there to be trained
        # Evenly spaced and both ends included: the lowest layer reads the embedding, the highest writes for the norm.
        source = whole(layers[round(i * (len(layers) - 1) / max(cfg.layers - 1, 1))])
        params[f"layer_{i}"] = {**params[f"layer_{i}"], **source}
    return {**params, "norm": backbone["norm"]}

"""Floor 2: the causal language model: Llama-2/3, Mistral, Qwen2/2.5/3, Gemma 3 and Phi-2 as one configurable decoder.

    ids_BL -> embed -> stack_0 -> stack_1 ... -> norm -> head -> logits_BLV

Any row of a batch can carry its own `Delta`; nothing of it is structure. Parameters: `embed/table [V, D]`,
`stack_i/{attn_norm, attn/{q,k,v,o,q_norm,k_norm}, attn_post_norm, mlp_norm, mlp/{gate,up,down}, mlp_post_norm}` with
leading N, `norm`, `head`.
"""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxrec.delta import Sites, StackSites
from jaxrec.nn.attention import Attention
from jaxrec.nn.cache import GLOBAL, LAYER_TYPES, LOCAL, LayerCache, new_cache
from jaxrec.nn.embed import Embed, enter
from jaxrec.nn.layers import ACTIVATIONS, Dense, Mlp, Norm, adapt, change_at, low_rank
from jaxrec.nn.rope import RopeScaling, rotary
from jaxrec.nn.stack import REMAT, resolve_hidden, run_stacks, stack_sizes, types_of
from jaxrec.nn.window import views
from jaxrec.structs import Delta, HeadOutput, KVCache, LayerDelta, OuterDelta


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """What a decoder is made of, in words of no family. The defaults are a small Llama."""

    vocab: int = 8192
    d_model: int = 512
    layers: int = 8
    heads: int = 8
    groups: int = 4  # key heads
    head_dim: int = 64
    d_ff: int = 1376
    norm: str = "rms"  # rms | rms_offset (scaled by 1 + w) | layer
    norm_eps: float = 1e-6
    gated: bool = True
    activation: str = "silu"
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    qk_norm: bool = False
    query_scalar: float | None = None  # scores are divided by its root; None: head_dim
    post_norms: bool = False  # what attention and MLP add is normed as well (Gemma)
    parallel: bool = False  # attention and MLP both read the same normed x (Phi-2)
    rope_theta: float = 10000.0
    rope_fraction: float = 1.0  # of each head's dimensions that turn
    rope_scaling: RopeScaling | None = None
    layer_types: tuple[str, ...] = ("global",)  # global | local, repeated to the last layer
    window: int = 0  # keys that a query of a local layer sees, its own included
    local_rope_theta: float | None = None  # of local layers, unstretched; None: they turn as all
    embed_scaled: bool = False  # vectors of ids are multiplied by the root of d_model (Gemma)
    tied: bool = False
    max_positions: int = 1024
    init_std: float = 0.02
    cuts: tuple[int, ...] = ()
    dtype: str = "float32"  # of the computation; parameters keep their own
    remat: str = "none"  # none | full | dots
    attention: str = "own"  # own | cudnn (NVIDIA GPUs, 16-bit numbers; rows without a cache)

    def __post_init__(self):
        stack_sizes(self.layers, self.cuts)
        if self.heads % self.groups:
            raise ValueError(f"{self.heads} heads can't share {self.groups} key heads evenly")
        for name, known in (
            ("norm", ("rms", "rms_offset", "layer")),
            ("activation", ACTIVATIONS),
            ("remat", REMAT),
            ("attention", ("own", "cudnn")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name}={getattr(self, name)!r}: choose one of {', '.join(known)}"
                )
        if not self.layer_types or not set(self.layer_types) <= set(LAYER_TYPES):
            raise ValueError(f"layer_types={self.layer_types}: each is {' or '.join(LAYER_TYPES)}")
        if (LOCAL in self.layer_types) != (self.window > 0):
            raise ValueError(
                f"window={self.window}, layer_types={self.layer_types}: local layers have a window above 0, others none"
            )
        if self.post_norms and self.parallel:
            raise ValueError("a parallel layer has no norms behind attention and MLP")

    @property
    def rotary_dim(self) -> int:
        return int(self.head_dim * self.rope_fraction)

    @property
    def types(self) -> tuple[str, ...]:
        """global or local, of each layer."""
        return types_of(self.layer_types, self.layers)

    def rope_of(self, layer_type: str) -> tuple[float, RopeScaling | None]:
        """The base and the scaling by which layers of this type turn."""
        if layer_type == LOCAL and self.local_rope_theta is not None:
            return self.local_rope_theta, None
        return self.rope_theta, self.rope_scaling


class Block(nn.Module):
    """One layer: pre-norm attention and MLP, one after the other or in parallel."""

    cfg: DecoderConfig

    @nn.compact
    def __call__(
        self,
        x_BLD: Array,
        delta: LayerDelta | None = None,
        cache: LayerCache | None = None,
        *,
        mask_BLM: Array,
        turn: tuple[Array, Array],
        positions: tuple[Array, Array],
    ) -> tuple[Array, LayerCache | None]:
        """(the residual stream after this layer, the cache with these tokens in it).

        Args:
          x_BLD: the residual stream.
          delta: this layer's changes, leaves without N.
          cache: this layer's view of the cache.
          mask_BLM: which keys each query sees.
          turn: rotary (cos, sin) of the queries' positions.
          positions: those of (queries, keys), for a distance bias.
        """
        c = self.cfg
        out_std = (
            c.init_std / (2 * c.layers) ** 0.5
        )  # keeps the residual's variance flat in depth (GPT-2)
        norm = lambda name, x: Norm(c.norm, c.norm_eps, name=name)(
            x, change_at(delta, "norm", name)
        )
        after = lambda name, x: norm(name, x) if c.post_norms else x
        attention = Attention(
            c.d_model, c.heads, c.groups, c.head_dim, c.qkv_bias, c.o_bias,
            qk_norm_eps=c.norm_eps if c.qk_norm else None,
            qk_norm="rms" if c.norm == "layer" else c.norm,
            query_scalar=c.query_scalar,
            fused=c.attention == "cudnn",
            init_std=c.init_std, out_std=out_std, name="attn",
        )  # fmt: skip
        mlp = Mlp(c.d_ff, c.gated, c.activation, c.mlp_bias, c.init_std, out_std, name="mlp")
        feed = lambda h: adapt(mlp(h, delta), change_at(delta, "adapter", "mlp"))

        h = norm("attn_norm", x_BLD)
        attended, cache = attention(h, mask_BLM, delta, turn=turn, positions=positions, cache=cache)
        if c.parallel:
            return x_BLD + attended + feed(h), cache
        x_BLD = x_BLD + after("attn_post_norm", attended)
        return x_BLD + after("mlp_post_norm", feed(norm("mlp_norm", x_BLD))), cache


class Decoder(nn.Module):
    """The whole model."""

    cfg: DecoderConfig

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
        cache: KVCache | None = None,
        hidden: Sequence[int] = (),
        logits: str = "all",
        since: int = 0,
    ) -> HeadOutput:
        """What was asked for of each real token: the rows of a soft prompt are left out of what is returned.

        Args:
          ids_BL: tokens; with a cache the next chunk of each row.
          mask_BL: True at real tokens, which may be padded at either side.
          positions_BL, segments_BL: of packed examples.
          inputs_BLD: embeddings in place of those of ids_BL.
          delta: changes for each row, or one for all rows; None: the model as it is.
          cache: keys and values so far.
          hidden: which hidden states are given, by HF's `hidden_states` indices (0: the embeddings, layers or -1:
            after the final norm).
          logits: "all" -> [B, L - since, V], "last" -> [B, 1, V] at each row's last real token, or "none".
          since: the first place whose logits are made, with "all".
        """
        c = self.cfg
        if logits not in ("all", "last", "none"):
            raise ValueError(f'logits={logits!r}: ask for "all", "last" or "none"')
        if cache is not None and (segments_BL is not None or positions_BL is not None):
            raise ValueError(
                "a cache decides positions itself: give no positions_BL or segments_BL"
            )
        hidden = resolve_hidden(hidden, c.layers)
        outer = OuterDelta() if delta is None else delta.outer
        embed = Embed(c.vocab, c.d_model, c.init_std, name="embed")
        x_BLD = (embed(ids_BL) if inputs_BLD is None else inputs_BLD).astype(c.dtype)
        if c.embed_scaled and inputs_BLD is None:
            # The root is rounded to the type of the computation, as the published models were trained with it.
            x_BLD = x_BLD * jnp.asarray(c.d_model**0.5, c.dtype)
        mask_BL = jnp.ones(x_BLD.shape[:2], bool) if mask_BL is None else mask_BL
        entry = enter(x_BLD, mask_BL, positions_BL, segments_BL, outer, cache)
        looks = views(entry, c.types, c.window, cache)
        contexts = {
            layer_type: {
                "mask_BLM": view.seen_BLM,
                "turn": rotary(entry.positions_BL, c.rotary_dim, *c.rope_of(layer_type)),
                "positions": (entry.positions_BL, view.key_positions_BM),
            }
            for layer_type, view in looks.items()
        }
        # parent=None: the block owns no parameters here. `run_stacks` holds them stacked and applies it layer by layer.
        x_BLD, cache, states = run_stacks(
            self, Block(c, parent=None), stack_sizes(c.layers, c.cuts), entry.x_BLD, contexts,
            types=c.layer_types, delta=delta, cache=cache, hidden=hidden,
            slots={layer_type: view.slots_BL for layer_type, view in looks.items()},
            remat=c.remat,
        )  # fmt: skip
        if cache is not None:
            cache = cache.replace(filled_B=entry.filled_B)
        own = slice(entry.shared, None)  # without the soft prompt
        normed = Norm(c.norm, c.norm_eps, name="norm")(x_BLD[:, own])
        states = {i: x[:, own] for i, x in states.items()} | {c.layers: normed}
        out = HeadOutput(hidden=tuple(states[i] for i in hidden) or None, cache=cache)
        # While initialising the head has to be passed through, or its parameters would not be made.
        if logits == "none" and not self.is_initializing():
            return out
        # Cut before the vocabulary is met: of a prompt, [B, L, V] would be the largest array of the program.
        normed = last_real(normed, mask_BL) if logits == "last" else normed[:, since:]
        return out.replace(logits=self._logits(normed, embed, outer))

    def _logits(self, x_BLD: Array, embed: Embed, outer: OuterDelta) -> Array:
        c = self.cfg
        if c.tied:
            y = embed.attend(x_BLD)
        else:
            y = Dense(c.vocab, c.head_bias, c.init_std, name="head")(x_BLD)
        if outer.head is not None:
            y = y + low_rank(x_BLD, outer.head)
        # A softmax sums over the whole vocabulary, so scores are f32 whatever the layers compute in.
        return y.astype(jnp.float32)

    @staticmethod
    def sites(cfg: DecoderConfig) -> Sites:
        """Where a decoder of this config can be changed."""
        d, f, size = cfg.d_model, cfg.d_ff, cfg.head_dim
        lora = {
            "q": (d, cfg.heads * size),
            "k": (d, cfg.groups * size),
            "v": (d, cfg.groups * size),
            "o": (cfg.heads * size, d),
            **({"gate": (d, f)} if cfg.gated else {}),
            "up": (d, f),
            "down": (f, d),
        }
        # A parallel layer has a single norm, which attention and MLP both read.
        norms = ("attn_norm",) if cfg.parallel else ("attn_norm", "mlp_norm")
        norms += ("attn_post_norm", "mlp_post_norm") if cfg.post_norms else ()
        stacks = {
            name: StackSites(
                n_layers=n,
                lora=lora,
                adapter={"attn": d, "mlp": d},
                prefix={"attn": (cfg.heads, cfg.groups, size)},
                norm=dict.fromkeys(norms, d),
                scale={site: out for site, (_, out) in lora.items()} | {"hidden": f},
                attn_bias={"attn": cfg.heads},
            )
            for name, n in stack_sizes(cfg.layers, cfg.cuts).items()
        }
        return Sites(stacks=stacks, d_model=d, vocab=cfg.vocab)

    @staticmethod
    def path_of(site: str) -> tuple[str, str]:
        """Where the matrix of a LoRA site lies inside a stack's parameters."""
        return ("mlp" if site in ("gate", "up", "down") else "attn", site)


def output_classes(cfg: DecoderConfig, params: PyTree) -> tuple[Array, Array | None] | None:
    """(what logits are made with [V, D], bias [V] or None), or None where the head is quantised."""
    if cfg.tied:
        table = params["embed"]["table"]
        return None if hasattr(table, "matmul") else (table, None)
    kernel = params["head"]["kernel"]
    return None if hasattr(kernel, "matmul") else (kernel.T, params["head"].get("bias"))


def decoder_cache(cfg: DecoderConfig, batch: int, slots: int) -> KVCache:
    """An empty cache for `batch` rows of at most `slots` tokens, a soft prompt's included."""
    counts: dict[str, dict[str, int]] = {t: {} for t in LAYER_TYPES}
    start = 0
    for name, size in stack_sizes(cfg.layers, cfg.cuts).items():
        own = cfg.types[start : start + size]
        start += size
        for layer_type in set(own):
            counts[layer_type][name] = own.count(layer_type)
    return new_cache(
        counts[GLOBAL], batch, slots, cfg.groups, cfg.head_dim, cfg.dtype,
        rings=counts[LOCAL], window=cfg.window,
    )  # fmt: skip


def last_real(x_BLD: Float[Array, "B L D"], mask_BL: Bool[Array, "B L"]) -> Float[Array, "B 1 D"]:
    """Each row's vector at its last real token (at the last position where a row has none)."""
    # A decoded token is its row's last; in a row that has ended nobody looks at what is chosen.
    if x_BLD.shape[1] == 1:
        return x_BLD
    # argmax finds the first True, in the reversed mask the last one, and 0 (the last position) where there is none.
    last_B = mask_BL.shape[1] - 1 - jnp.argmax(mask_BL[:, ::-1], axis=1)
    return jnp.take_along_axis(x_BLD, last_B[:, None, None], axis=1)

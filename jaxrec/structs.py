"""Floor 1: the few pytrees that everything speaks. Field names end in their shape letters (see `types`).

A field's letters are its shape; its annotation is only `Leaf`, because pytrees also carry shardings, specs, shapes
and `None` in these places: shapes are checked on functions and never on fields (`no_type_check` where an annotation
says more, for the reader).
"""

from collections.abc import Callable, Mapping
from typing import Any, no_type_check

import flax.struct as struct

Leaf = Any  # an array, or whatever stands for one
PyTree = Any

# ---------------------------------------------------------------------------------------------- deltas


@struct.dataclass
class LoraDropout:
    """Which entries of a LoRA's input are dropped: while training only, never kept with the weights."""

    # Keys travel as data of the Delta, one a row, so that what is dropped does not depend on microbatches.
    key_NB: Leaf  # random keys, one a layer and row
    rate: float = struct.field(pytree_node=False)
    site: int = struct.field(pytree_node=False, default=0)  # tells the sites of one layer apart


@struct.dataclass
class Lora:
    """y += ((x @ a) @ b) * scale. Zero `b` is the identity. Without N inside a scan.

    `magnitude` makes it DoRA (Liu 2024): y = g * (x W + LoRA), where g = |W| (1 + magnitude) / |W + scale a b| by
    output column. It is an offset relative to |W|, so zero is the identity. `gain` is that g, where somebody has
    already computed it for weights that no longer move; the magnitude is then not looked at.
    """

    a_NBDR: Leaf
    b_NBRF: Leaf
    # A number for each row, so that changes of different alpha lie in one bank.
    scale_NB: Leaf
    magnitude_NBF: Leaf | None = None
    gain_NBF: Leaf | None = None
    dropout: Leaf | None = None  # a LoraDropout


@struct.dataclass
class Adapter:
    """Bottleneck after a sublayer: y += gelu(y @ down + its bias) @ up + its bias (Houlsby 2019). Identity: up = 0."""

    down_NBDA: Leaf
    down_bias_NBA: Leaf
    up_NBAD: Leaf
    up_bias_NBD: Leaf


@struct.dataclass
class Prefix:
    """Keys and values before all others, their softmax mass times `gate` (0 or less: none; 1, or no gate at all:
    plain concatenation, as PEFT).

    Zero keys and values are *not* the identity (they still take mass), a zero gate is. Keys are used as they are:
    no rotary embedding is applied to them.
    """

    k_NBPGK: Leaf
    v_NBPGK: Leaf
    # It multiplies the softmax mass instead of being added as a logarithm: so it has a gradient at 0, where it
    # starts.
    gate_NBH: Leaf | None = None


@struct.dataclass
class Film:
    """Conditional norm: norm(x) * (1 + gamma) + beta (Perez 2018). Zero is the identity."""

    gamma_NBD: Leaf
    beta_NBD: Leaf


@struct.dataclass
class AttnBias:
    """Added to attention scores. Zero is the identity.

    `distance`: by relative-distance bucket (T5's buckets) in self-attention. `segment`: by the segment of the key
    in cross-attention over a memory (0: the turn's own Z, 1...: retrieved). A constant per head would do nothing.
    """

    distance_NBHX: Leaf | None = None
    segment_NBHX: Leaf | None = None


@no_type_check
@struct.dataclass
class LayerDelta:
    """All changes to one stack of layers, each kind a dict by site, or `None` where the kind is absent.

    Every leaf leads with N (so that a scan over layers eats it), then B (the batch, or 1 when all rows share it).
    """

    lora: Mapping[str, Lora] | None = None
    adapter: Mapping[str, Adapter] | None = None
    prefix: Mapping[str, Prefix] | None = None
    norm: Mapping[str, Film] | None = None
    scale: Mapping[str, Leaf] | None = None  # IA3 as an offset: y * (1 + s). Zero is the identity.
    attn_bias: Mapping[str, AttnBias] | None = None

    def by_layer(self) -> tuple[PyTree, Callable[[PyTree], "LayerDelta"]]:
        """(what a scan over layers slices, what turns one slice into that layer's delta)."""
        return self, lambda layer: layer


@struct.dataclass
class LazyLayerDelta:
    """A stack's delta that a hypernetwork makes layer by layer, *inside* the scan, where it is used.

    `maker` is a hashable flax module: `maker.apply({"params": params}, h, code, stack, method="layer")` gives the
    `LayerDelta` of the layer whose code it is (leaves lead with B). Memory of the whole Delta is never needed.
    """

    # At rank 8 on all seven sites a 7B model takes 20 million numbers a row. Made layer by layer they measured 36
    # MB of temporaries against 214 MB made whole, in equal time.
    params: PyTree  # the hypernetwork's weights, the same at each layer
    h_BE: Leaf  # p after the hypernetwork's trunk
    code_NE: Leaf  # one embedding a layer
    maker: Any = struct.field(pytree_node=False)
    stack: str = struct.field(pytree_node=False, default="stack_0")

    def by_layer(self) -> tuple[PyTree, Callable[[PyTree], LayerDelta]]:
        """(the layer codes, the function that makes one layer's delta from its code)."""
        make = lambda code_E: self.maker.apply(
            {"params": self.params}, self.h_BE, code_E, self.stack, method="layer"
        )
        return self.code_NE, make


@no_type_check
@struct.dataclass
class OuterDelta:
    """What has no layer axis: a soft prompt, an offset to the first token's embedding, a LoRA on the output head."""

    prompt_BPD: Leaf | None = None
    embed_BD: Leaf | None = None
    head: Lora | None = None  # leaves without N


@no_type_check
@struct.dataclass
class Delta:
    """A person's or tenant's changes to a frozen model: data that travels as an argument, another one for each row."""

    stacks: Mapping[str, LayerDelta | LazyLayerDelta] = struct.field(default_factory=dict)
    outer: OuterDelta = struct.field(default_factory=OuterDelta)


# ------------------------------------------------------------------------------------------ model outputs


@struct.dataclass
class LFEOutput:
    """What the language feature extractor knows of a text. `mask`: real tokens; z_seq is 0 elsewhere."""

    z_seq_BLD: Leaf
    z_cls_BD: Leaf
    mask_BL: Leaf


@struct.dataclass
class KVCache:
    """Keys and values [N, B, G, M, K] by stack, compact: a row's n-th real token lies in slot n, whatever its padding.

    So slot = rotary position, a slot is valid while it is below `filled_B`, and padding is written nowhere
    (`mode="drop"`). Rides in the scan's carry.
    """

    # Heads stand before slots, the order in which attention multiplies: a decoded token copies nothing of the
    # cache.
    k: Mapping[str, Leaf]
    v: Mapping[str, Leaf]
    filled_B: Leaf


@struct.dataclass
class HeadOutput:
    """What a decoder or head gives; what was not asked for is `None`."""

    hidden: Any = None  # [B, L, D], or a tuple of them where several layers were asked for
    logits: Leaf | None = None
    value: Leaf | None = None
    cache: KVCache | None = None


# ------------------------------------------------------------------------------------------ batches, state


@struct.dataclass
class Tokens:
    """Token rows. `mask`: real tokens. `loss`: weight of predicting each token *from those before it* (0 at a prompt).

    `segments` (1, 2, ...; 0 at padding) tells packed examples apart; `positions` restart in each. `states` [B, L, D]:
    what the layers below the first changed one give, where it was computed beforehand.
    """

    ids_BL: Leaf
    mask_BL: Leaf
    loss_BL: Leaf | None = None
    segments_BL: Leaf | None = None
    positions_BL: Leaf | None = None
    states_BLD: Leaf | None = None


@struct.dataclass
class Pairs:
    """Preferences: the same prompt answered in two ways (`Turns` where a tenant answers).

    The references are what the untuned model gives the answers: their log-probabilities, nats; `None` where nobody
    asked it beforehand.
    """

    chosen: "Tokens | Turns"
    rejected: "Tokens | Turns"
    chosen_reference_B: Leaf | None = None
    rejected_reference_B: Leaf | None = None


@struct.dataclass
class Thumbs:
    """Single answers that somebody liked or not. `mismatched`: the same prompts, each with another row's answer."""

    answer: "Tokens | Turns"
    mismatched: "Tokens | Turns"
    liked_B: Leaf
    answer_reference_B: Leaf | None = None
    mismatched_reference_B: Leaf | None = None


@struct.dataclass
class Turns:
    """Questions and answers, whose business answered, and what is known of it (`models.profile.Evidence`).

    `states_BLD`: what the frozen part of a backbone gives of a row, where it was computed beforehand.
    """

    question: Tokens
    answer: Tokens
    tenant_B: Leaf
    evidence: PyTree = None
    states_BLD: Leaf | None = None


@struct.dataclass
class Retrofit:
    """What Z must be good for: going on (`context` -> `continuation`), restoring (`corrupted` -> `spans`, T5's form),
    meaning (`first` and `second` say the same; `meaning_B` numbers what they say) and routing (`topic_B`, or -1).

    `states`: what the frozen models give of each text, by its field's name, where it was computed beforehand; the
    teacher's of `continuation`.
    """

    context: Tokens
    continuation: Tokens
    corrupted: Tokens
    spans: Tokens
    first: Tokens
    second: Tokens
    meaning_B: Leaf
    topic_B: Leaf
    states: PyTree = None


@struct.dataclass
class TrainState:
    """Everything a run needs to go on: `extra` moves without gradient, `source` is the data source's own state."""

    step: Leaf
    params: PyTree
    opt: PyTree
    extra: PyTree
    source: PyTree


@struct.dataclass
class Aux:
    """What a loss reports beside its value: `metrics` and `stats` are summed over microbatches."""

    metrics: Mapping[str, Leaf]
    stats: PyTree = None

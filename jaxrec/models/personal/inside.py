"""The person inside the model: A(p) changes layers of the backbone itself, and the backbone answers.

    question, answer --backbone, each row's Delta on the layers at `depths`--> the answer's next tokens

There is no head: the prompt is the conversation, the answer the backbone's own continuation. That is what Text-to-LoRA
(Charakorn 2025) and HyperTuning (Phang 2023) do for tasks, here for people: a frozen model, one hypernetwork, and a
LoRA (Hu 2021), conditional norm (FiLM, Perez 2018) or attention bias for each row of a batch. Lower layers, which
nobody changes, are the same for all and see no gradient; so the top quarter costs a quarter of a backward pass.
"""

import dataclasses
from collections.abc import Sequence

import flax.struct as struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxrec.config import RunError
from jaxrec.delta import DeltaConfig
from jaxrec.models.personal.vocabulary import bar_padding
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.nn.stack import stack_sizes
from jaxrec.structs import Delta, HeadOutput, Tokens


class InsideError(RunError, ValueError):
    """A person where the backbone has no place for one: a layer that is not there, an encoder that cannot answer."""


@struct.dataclass
class HalfRead:
    """A question whose answer is known, both read up to the first layer that A(p) changes.

    `states_BLD`: the residual stream behind the lowest `below` layers, [B, L + L', D], of the question's places and
    then the answer's.
    """

    question: Tokens
    states_BLD: Array
    below: int = struct.field(pytree_node=False)


def depths_or_top(depths: Sequence[int], layers: int) -> tuple[int, ...]:
    """The numbers of the layers that A(p) changes, from 0 at the bottom; by default the top quarter.

    Raises InsideError for a layer that the backbone does not have.
    """
    if any(not 0 <= n < layers for n in depths):
        raise InsideError(f"depths {tuple(depths)}: the backbone has layers 0 to {layers - 1}")
    return tuple(sorted(set(depths))) or tuple(range(layers - max(layers // 4, 1), layers))


def cuts_between(depths: Sequence[int], cfg: DecoderConfig) -> tuple[int, ...]:
    """The backbone's cuts, and one wherever a changed layer stands beside one that stays: a path then says which."""
    chosen = depths_or_top(depths, cfg.layers)
    # Paths name stacks, not layers, so a stack must be changed as a whole or not at all.
    edges = {n for n in range(1, cfg.layers) if (n in chosen) != (n - 1 in chosen)}
    return tuple(sorted({*cfg.cuts, *edges}))


def spec_inside(spec: DeltaConfig, depths: Sequence[int], cfg: DecoderConfig) -> DeltaConfig:
    """`spec` on the stacks that lie at `depths`, whatever stacks it named.

    Raises InsideError where a stack of the backbone holds layers of both kinds: cut it by `cuts_between` first.
    """
    if missing := set(cuts_between(depths, cfg)) - set(cfg.cuts):
        raise InsideError(
            f"the backbone is cut at {cfg.cuts}; A(p) at depths {depths_or_top(depths, cfg.layers)} needs a cut at"
            f" {sorted(missing)[0]} too (inside.cuts_between gives them all)"
        )
    # Cuts stand at every edge by now, so a stack's first layer speaks for all of it.
    chosen, start, names = depths_or_top(depths, cfg.layers), 0, []
    for name, size in stack_sizes(cfg.layers, cfg.cuts).items():
        names += [name] if start in chosen else []
        start += size
    return dataclasses.replace(spec, stacks="|".join(names))


def layers_below(spec: DeltaConfig, depths: Sequence[int], cfg: DecoderConfig) -> int:
    """How many of the lowest layers are the same for everybody, so that what they give can be kept.

    Raises InsideError for changes that begin before the first layer.
    """
    if spec.embed or spec.prompt_length:
        raise InsideError(
            "inside.embed and inside.prompt_length change what the first layer reads, so there are no states that are"
            " the same for everybody: leave them out, or keep no features"
        )
    return depths_or_top(depths, cfg.layers)[0]


def half_read(
    backbone: Decoder, params: PyTree, tokens: Tokens, below: int
) -> Float[Array, "B L D"]:
    """The residual stream after the lowest `below` layers; those above it are not computed.

    backbone, params: the decoder and its weights. tokens: question and answer as one row.
    """
    out = backbone.apply(
        {"params": params}, tokens.ids_BL, tokens.mask_BL, hidden=(below,), logits="none"
    )
    return out.hidden[0]


def upper_half(
    backbone: Decoder, params: PyTree, delta: Delta | None, below: int
) -> tuple[Decoder, PyTree, Delta | None]:
    """The layers from `below` on, as a decoder of their own that takes states in place of embeddings.

    Positions follow from the mask alone, so it gives what the whole one gives, bit for bit.

    Args:
      backbone, params: the whole decoder.
      delta: its changes, of these layers alone.
      below: 0 or one of the decoder's cuts.

    Raises InsideError for a Delta that changes a layer below.
    """
    cfg = backbone.cfg
    names, start = {}, 0
    for name, size in stack_sizes(cfg.layers, cfg.cuts).items():
        if start >= below:
            names[name] = f"stack_{len(names)}"
        start += size
    cuts = tuple(cut - below for cut in cfg.cuts if cut > below)
    # The cycle of local and global layers goes on where the lower half leaves it.
    turn = below % len(cfg.layer_types)
    types = (*cfg.layer_types[turn:], *cfg.layer_types[:turn])
    changes = {"layers": cfg.layers - below, "cuts": cuts, "layer_types": types}
    upper = backbone.clone(cfg=dataclasses.replace(cfg, **changes))
    rest = {name: part for name, part in params.items() if not name.startswith("stack_")}
    rest |= {new: params[old] for old, new in names.items()}
    if delta is not None:
        if lower := set(delta.stacks) - set(names):
            raise InsideError(
                f"a Delta of {sorted(lower)[0]} changes layers below {below}, whose states were kept without it"
            )
        delta = delta.replace(stacks={names[old]: x for old, x in delta.stacks.items()})
    return upper, rest, delta


def joined(question: Tokens, answer: Tokens) -> Tokens:
    """Both as rows of one text, [B, L + L'], the padding between them left where it is."""
    join = lambda a, b: jnp.concatenate([a, b], axis=1)
    return Tokens(
        join(question.ids_BL, answer.ids_BL),
        join(question.mask_BL, answer.mask_BL),
    )


def answer_logits(
    backbone: Decoder,
    params: PyTree,
    question: Tokens | HalfRead,
    answer: Tokens,
    delta: Delta | None,
    *,
    tokens: int = 0,
    logits: str = "all",
) -> HeadOutput:
    """Teacher forcing: the backbone with each row's Delta reads question and answer, and is asked about the answer.

    Args:
      backbone: the decoder.
      params: its weights.
      question: rows [B, L]; the padding between question and answer is no token and takes no position. Half read, its
        lower layers are not computed again.
      answer: rows [B, L'], of which logits [B, L', V] and hidden states [B, L', D] are given.
      delta: each row's changes of the backbone, or None for the backbone as it is.
      tokens: ids that the tokenizer has; those beyond are barred. 0: all.
      logits: "all" or "none".
    """
    states_BLD = None
    if isinstance(question, HalfRead):
        states_BLD = jax.lax.stop_gradient(question.states_BLD)
        backbone, params, delta = upper_half(backbone, params, delta, question.below)
        question = question.question
    since, rows = question.ids_BL.shape[1], joined(question, answer)
    out = backbone.apply(
        {"params": params},
        rows.ids_BL if states_BLD is None else None,
        rows.mask_BL,
        inputs_BLD=states_BLD,
        delta=delta,
        hidden=(-1,),
        logits=logits,
        since=since,
    )
    # The question's places are computed, as keys and values for the answer, but no logits are made for them.
    own = out.hidden[0][:, since:]
    scores = None if out.logits is None else bar_padding(out.logits, tokens)
    return HeadOutput(hidden=own, logits=scores)

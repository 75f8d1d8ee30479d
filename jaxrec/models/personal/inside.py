"""The person inside the model: A(p) changes layers of the backbone itself, and the backbone answers.

    question, answer --backbone, each row's Delta on the layers at `depths`--> the answer's next tokens

There is no head: the prompt is the conversation, the answer the backbone's own continuation. That is what Text-to-LoRA
(Charakorn 2025) and HyperTuning (Phang 2023) do for tasks, here for people: a frozen model, one hypernetwork, and a
LoRA (Hu 2021), conditional norm (FiLM, Perez 2018) or attention bias for each row of a batch. Lower layers, which
nobody changes, are the same for all and see no gradient; so the top quarter costs a quarter of a backward pass.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxrec.config import RunError
from jaxrec.delta import DeltaConfig
from jaxrec.models.personal.vocabulary import bar_padding
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.nn.stack import stack_sizes
from jaxrec.structs import Delta, HeadOutput, Tokens


class InsideError(RunError, ValueError):
    """A person where the backbone has no place for one: a layer that is not there, an encoder that cannot answer."""


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


def answer_logits(
    backbone: Decoder,
    params: PyTree,
    question: Tokens,
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
      question: rows [B, L]; the padding between question and answer is no token and takes no position.
      answer: rows [B, L'], of which logits [B, L', V] and hidden states [B, L', D] are given.
      delta: each row's changes of the backbone, or None for the backbone as it is.
      tokens: ids that the tokenizer has; those beyond are barred. 0: all.
      logits: "all" or "none".
    """
    join = lambda a, b: jnp.concatenate([a, b], axis=1)
    ids_BL: Array = join(question.ids_BL, answer.ids_BL)
    mask_BL: Array = join(question.mask_BL, answer.mask_BL)
    since = question.ids_BL.shape[1]
    out = backbone.apply(
        {"params": params}, ids_BL, mask_BL, delta=delta, hidden=(-1,), logits=logits, since=since
    )
    # The question's places are computed, as keys and values for the answer, but no logits are made for them.
    own = out.hidden[0][:, since:]
    scores = None if out.logits is None else bar_padding(out.logits, tokens)
    return HeadOutput(hidden=own, logits=scores)

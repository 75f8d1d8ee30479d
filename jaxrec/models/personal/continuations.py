"""Floor 3: how likely a language model finds continuations of prompts: what a language-model judge asks."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxrec.config import RunError
from jaxrec.data.chat import ChatFormat, OwnChat
from jaxrec.losses.tokens import following
from jaxrec.models.language.tuned_lm import TunedLM
from jaxrec.structs import Tokens

Encode = Callable[[str], Sequence[int]]


class ContinuationError(RunError, ValueError):
    """A continuation that cannot be scored."""


def plain(chat: ChatFormat) -> tuple[list[int], Encode]:
    """(what a text begins with, text -> ids without any mark) of a chat format's tokenizer."""
    if isinstance(chat, OwnChat):
        return [chat.tok.special["<bos>"]], chat.tok.encode
    first = [] if chat.tok.bos_id is None else [chat.tok.bos_id]
    return first, lambda said: chat.tok.encode_spans(said)[0]


def scorer(
    lm: TunedLM,
    tree: PyTree,
    encode: Encode,
    *,
    first: Sequence[int] = (),
    length: int = 512,
    rows: int = 8,
) -> Callable[[Sequence[str], Sequence[str]], list[float]]:
    """score(prompts, continuations) -> the log-probability of each continuation after its prompt, nats.

    Args:
      lm: the model.
      tree: all its parts.
      encode: text -> ids, nothing added; prompt and continuation are encoded apart.
      first: ids before every prompt (<bos>).
      length: tokens of a row. A prompt that does not fit loses its beginning, `first` stays.
      rows: at a time; there is one program.

    Raises ContinuationError for a continuation of no tokens, or of more than half of `length`.
    """

    @jax.jit
    def ask(tree: PyTree, batch: Tokens):
        return jnp.sum(lm.log_probs(tree, batch).log_p_BL * following(batch.loss_BL), axis=1)

    def example(prompt: str, continuation: str) -> tuple[list[int], int]:
        # Encoded apart from the prompt: joined, a token could cross the border, and two continuations of one prompt
        # would not be scored after the same ids.
        tail = list(encode(continuation))
        if not 0 < len(tail) <= length // 2:
            raise ContinuationError(
                f"the continuation {continuation!r} has {len(tail)} tokens: 1 to {length // 2} can be scored"
            )
        head = list(encode(prompt))
        # What is next to the continuation matters most to it, so a long prompt loses its beginning.
        room = length - len(tail) - len(first)
        ids = [*first, *head[max(len(head) - room, 0) :]]
        if not ids:
            raise ContinuationError(
                "nothing stands before the continuation: give a prompt or `first`"
            )
        return ids + tail, len(tail)

    def score(prompts: Sequence[str], continuations: Sequence[str]) -> list[float]:
        asked = [example(*pair) for pair in zip(prompts, continuations, strict=True)]
        told: list[float] = []
        for start in range(0, len(asked), rows):
            part = asked[start : start + rows]
            # Always `rows` x `length`, empty rows included: one program for every call.
            batch = Tokens(
                np.zeros((rows, length), np.int32),
                np.zeros((rows, length), bool),
                np.zeros((rows, length), np.float32),
            )
            for i, (ids, tail) in enumerate(part):
                batch.ids_BL[i, : len(ids)] = ids
                batch.mask_BL[i, : len(ids)] = True
                # Only the continuation is scored; the prompt is read and not judged.
                batch.loss_BL[i, len(ids) - tail : len(ids)] = 1.0
            told += np.asarray(ask(tree, batch))[: len(part)].tolist()
        return told

    return score

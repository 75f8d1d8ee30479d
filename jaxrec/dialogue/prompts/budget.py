"""A prompt's tokens: what goes when there are too many, in which order, and what went.

    never       who the model is (role, tenant, steps) and the question
    first       examples, the least similar first
    then        history, the oldest exchange first
    then        passages, the one that was found last first
    then        what is remembered of earlier turns, the last line first
    last        what is known of the customer, the field that was given last first

The order is a setting. What is counted in the end is the whole prompt as the model will read it: the parts' own counts
say what should go, and where the whole is still too long, more goes. So the budget is never exceeded.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Generic, Literal, TypeVar

from jaxrec.data.message import Message
from jaxrec.dialogue.prompts.generation import PromptError

Part = Literal["examples", "history", "passages", "memory", "context"]
ORDER: tuple[Part, ...] = ("examples", "history", "passages", "memory", "context")
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class BudgetConfig:
    """How long a prompt may be."""

    tokens: int = 1024  # of the whole prompt, with what opens the answer
    order: tuple[str, ...] = ORDER  # which part goes first; a part that is not named never goes


@dataclasses.dataclass(frozen=True)
class Dropped:
    """A piece that had no room. begins: its first words."""

    part: Part
    begins: str


@dataclasses.dataclass(frozen=True)
class Kept:
    """How many pieces of each part are left, in `ORDER`'s order; of history the newest are, of the others the first."""

    examples: int
    history: int
    passages: int
    memory: int
    context: int


@dataclasses.dataclass(frozen=True)
class Fitted(Generic[T]):
    """A prompt that fits: what `write` gave, its tokens, and what went."""

    written: T
    tokens: int
    kept: Kept
    dropped: tuple[Dropped, ...]


def fit(
    write: Callable[[Kept], tuple[T, int]],
    pieces: dict[Part, Sequence[str]],
    size: Callable[[Part, str], int],
    cfg: BudgetConfig,
) -> Fitted[T]:
    """The longest prompt within the budget that the order of dropping leads to.

    write: what is kept -> (the prompt, its tokens as the model reads it). pieces: the texts of each part, in the order
    in which the prompt has them. size: about how many tokens a piece adds. cfg: how many there may be. Raises
    PromptError where question and instructions alone are too long, and for a budget below one token.
    """
    if cfg.tokens < 1:
        raise PromptError(f"a budget of {cfg.tokens} tokens is none")
    if unknown := [part for part in cfg.order if part not in ORDER]:
        raise PromptError(f"budget.order: {unknown[0]!r} is none of {', '.join(ORDER)}")
    left = {part: len(pieces[part]) for part in ORDER}
    dropped: list[Dropped] = []

    def drop(over: int) -> None:
        while over > 0 and (part := next((one for one in cfg.order if left[one]), None)):
            # Of history the oldest goes, of all else what is worth least, and that stands last.
            at = len(pieces[part]) - left[part] if part == "history" else left[part] - 1
            text = pieces[part][at]
            over -= max(size(part, text), 1)
            left[part] -= 1
            dropped.append(Dropped(part, " ".join(text[:400].split())[:60]))

    # Prose has more than four bytes a token. Where that many don't fit, the parts are weighed before the whole is
    # written; else the whole is written at once, and most prompts are.
    if sum(len(text.encode()) for part in ORDER for text in pieces[part]) // 4 > cfg.tokens:
        _, bare = write(Kept(*(len(pieces[part]) * (part not in cfg.order) for part in ORDER)))
        _check(bare, cfg)
        drop(bare + sum(size(one, text) for one in cfg.order for text in pieces[one]) - cfg.tokens)
    written, tokens = write(Kept(**left))
    while tokens > cfg.tokens:
        before = len(dropped)
        drop(tokens - cfg.tokens)
        if len(dropped) == before:
            _check(tokens, cfg)
        written, tokens = write(Kept(**left))
    return Fitted(written, tokens, Kept(**left), tuple(dropped))


def _check(tokens: int, cfg: BudgetConfig) -> None:
    """Raises PromptError where what never goes is too long."""
    if tokens > cfg.tokens:
        raise PromptError(
            f"the question and its instructions have {tokens:,} tokens, and the budget is {cfg.tokens:,}: ask something"
            " shorter, or raise the budget"
        )


def guessed_tokens(messages: Sequence[Message]) -> int:
    """About how many tokens messages have for a model whose tokenizer is not here: a guess, on the high side.

    A token of English has four letters and more, of Russian three (six bytes): a third of the bytes are more than
    published tokenizers make of prose, and eight for each message are more than templates put around one.
    """
    return sum(len(said.encode("utf-8", "replace")) // 3 + 8 for _, said in messages)

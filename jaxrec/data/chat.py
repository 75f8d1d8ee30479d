"""How a model writes a conversation: messages -> token ids, of which only what the assistant says is learned.

    OwnChat       the format of `data.text`, whose marks are ids of their own
    TemplateChat  the jinja template that a Hugging Face tokenizer brings along
    PlainChat     a base model without any template: <bos> prompt completion <eos>

All three keep one promise: `opening(messages)` is how `example(messages + answer)` begins, token by token, as far as
the tokenizer allows it, so a model is asked in the very form in which it was taught.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxrec.config import RunError
from jaxrec.data import text
from jaxrec.data.text import Example

Message = tuple[str, str]  # (role, what was said)


class ChatError(RunError, ValueError):
    """A conversation that a model's format cannot write."""


@runtime_checkable
class ChatFormat(Protocol):
    """What the tuning stages ask of a tokenizer."""

    pad_id: int
    eos_ids: tuple[int, ...]  # ids that end an answer
    size: int  # of the vocabulary

    def example(self, messages: Sequence[Message], learn: str = "last") -> Example:
        """The whole conversation; `learn` "all" answers or only the "last". `loss[0]` is 0. Raises ChatError."""

    def opening(self, messages: Sequence[Message]) -> list[int]:
        """The ids up to where the assistant speaks. Raises ChatError."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""


@dataclasses.dataclass(frozen=True)
class OwnChat:
    """The chat format of a tokenizer that this project trained (`data.text`).

    plain: no marks of who speaks. <bos> prompt completion <eos>, as `PlainChat` writes it.
    """

    tok: text.Tokenizer
    plain: bool = False

    @property
    def pad_id(self) -> int:
        return self.tok.special["<pad>"]

    @property
    def eos_ids(self) -> tuple[int, ...]:
        return (self.tok.special["<eos>"],)

    @property
    def size(self) -> int:
        return self.tok.size

    def example(self, messages: Sequence[Message], learn: str = "last") -> Example:
        """As `ChatFormat.example`."""
        _check(messages, learn)
        if not self.plain:
            return text.dialogue(self.tok, messages, learn=learn)
        ids, loss = [self.tok.special["<bos>"]], [0.0]
        for i, said in enumerate(_plainly(messages)):
            own = self.tok.encode(said)
            learned = messages[i][0] == "assistant" and (learn == "all" or i == len(messages) - 1)
            ids, loss = ids + own, loss + [float(learned)] * len(own)
        return Example([*ids, *self.eos_ids], [*loss, 1.0])

    def opening(self, messages: Sequence[Message]) -> list[int]:
        """As `ChatFormat.opening`."""
        if not self.plain:
            return text.prompt(self.tok, messages)
        ids = [self.tok.special["<bos>"]]
        for said in _plainly([*messages, ("assistant", "")]):
            ids += self.tok.encode(said)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """As `ChatFormat.decode`."""
        return self.tok.decode(ids)


@runtime_checkable
class HubTokenizer(Protocol):
    """What is needed of a `hub.Tokenizer`; this floor does not know that one."""

    pad_id: int
    bos_id: int | None
    eos_ids: tuple[int, ...]

    def __len__(self) -> int: ...

    def encode_spans(self, said: str) -> tuple[list[int], list[tuple[int, int]]]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def chat(
        self, messages: Sequence[Mapping[str, Any]], answer_next: bool = True, **more: Any
    ) -> str: ...


@dataclasses.dataclass(frozen=True)
class _HubChat:
    """What a Hugging Face tokenizer says of itself, whatever the format of a chat."""

    tok: HubTokenizer

    @property
    def pad_id(self) -> int:
        return self.tok.pad_id

    @property
    def eos_ids(self) -> tuple[int, ...]:
        return self.tok.eos_ids

    @property
    def size(self) -> int:
        return len(self.tok)

    def decode(self, ids: Sequence[int]) -> str:
        """As `ChatFormat.decode`."""
        return self.tok.decode(ids)


@dataclasses.dataclass(frozen=True)
class TemplateChat(_HubChat):
    """A tokenizer's own chat template. The template writes the special tokens, none are added.

    What an answer is follows from the template alone: the text between the conversation before it, opened for an
    answer, and the conversation with it. It is learned up to its first end token; the line break that templates put
    behind that is not.
    """

    def example(self, messages: Sequence[Message], learn: str = "last") -> Example:
        """As `ChatFormat.example`."""
        _check(messages, learn)
        whole = self._text(messages, answer_next=False)
        answers = [i for i, (role, _) in enumerate(messages) if role == "assistant"]
        spans = []
        for i in answers if learn == "all" else answers[-1:]:
            before = self._text(messages[:i], answer_next=True)
            until = self._text(messages[: i + 1], answer_next=False)
            if not (until.startswith(before) and whole.startswith(until)):
                raise ChatError(
                    f"the chat template rewrites message {i} when more follows: what is an answer in it cannot be"
                    " told; learn the last answer only (learn='last')"
                )
            spans.append((len(before), len(until)))
        ids, places = self.tok.encode_spans(whole)
        return _learned(ids, places, spans, set(self.eos_ids))

    def opening(self, messages: Sequence[Message]) -> list[int]:
        """As `ChatFormat.opening`."""
        return self.tok.encode_spans(self._text(messages, answer_next=True))[0]

    def _text(self, messages: Sequence[Message], answer_next: bool) -> str:
        named = [{"role": _hf_role(role), "content": said} for role, said in messages]
        try:
            return self.tok.chat(named, answer_next=answer_next)
        except ValueError as error:
            raise ChatError(str(error)) from error


@dataclasses.dataclass(frozen=True)
class PlainChat(_HubChat):
    """A base model's way: what was said, message after message, as it stands; <bos> before it and <eos> behind.

    A prompt and its completion meet without anything between them, so data for a base model bring their own white
    space. Of a longer conversation the messages stand on lines of their own.
    """

    def example(self, messages: Sequence[Message], learn: str = "last") -> Example:
        """As `ChatFormat.example`."""
        _check(messages, learn)
        whole, spans = "", []
        for i, said in enumerate(_plainly(messages)):
            if messages[i][0] == "assistant" and (learn == "all" or i == len(messages) - 1):
                spans.append((len(whole), len(whole) + len(said)))
            whole += said
        ids, places = self.tok.encode_spans(whole)
        ids, loss = _learned(ids, places, spans, set())
        first = [] if self.tok.bos_id is None else [self.tok.bos_id]
        last = list(self.eos_ids[:1])
        return _first_unlearned(
            [*first, *ids, *last], [0.0] * len(first) + loss + [1.0] * len(last)
        )

    def opening(self, messages: Sequence[Message]) -> list[int]:
        """As `ChatFormat.opening`."""
        whole = "".join(_plainly([*messages, ("assistant", "")]))
        first = [] if self.tok.bos_id is None else [self.tok.bos_id]
        return [*first, *self.tok.encode_spans(whole)[0]]


def _check(messages: Sequence[Message], learn: str) -> None:
    if learn not in ("all", "last"):
        raise ChatError(f"learn={learn!r}: all of the assistant's answers, or the last?")
    if not messages or messages[-1][0] != "assistant":
        raise ChatError("a conversation to learn from ends with what the assistant says")


def _plainly(messages: Sequence[Message]) -> list[str]:
    """What is said, with the line breaks between: none where there is but a prompt and its completion."""
    if len(messages) == 2:
        return [said for _, said in messages]
    return [said if i == len(messages) - 1 else f"{said}\n" for i, (_, said) in enumerate(messages)]


def _hf_role(role: str) -> str:
    return "user" if role == "customer" else role


def _learned(
    ids: list[int], places: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]], ends: set
) -> Example:
    """Tokens that lie wholly in one of the spans are learned, up to the first end token in it."""
    loss = [0.0] * len(ids)
    for start, stop in spans:
        for i, (a, b) in enumerate(places):
            if a < start or b > stop or (a == b and ids[i] not in ends):
                continue
            loss[i] = 1.0
            if ids[i] in ends:
                break
    return _first_unlearned(ids, loss)


def _first_unlearned(ids: list[int], loss: list[float]) -> Example:
    """Nothing predicts the first token of a text: in a packed row that would be the text before it."""
    return Example(ids, [0.0, *loss[1:]][: len(ids)])

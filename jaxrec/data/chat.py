"""How a model writes a conversation: messages -> token ids, of which only what the assistant says is learned.

    OwnChat       the format of `data.text`, whose marks are ids of their own
    TemplateChat  the jinja template that a Hugging Face tokenizer brings along
    PlainChat     a base model without any template: <bos> prompt completion <eos>

All three keep one promise: `opening(messages)` is how `example(messages + answer)` begins, token by token, as far as
the tokenizer allows it, so a model is asked in the very form in which it was taught.

A personal model reads a question as one text and writes its answer as another: `question(messages)`, then an answer
whose ids begin with `start`. Joined they are the conversation as the format writes it.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxrec.config import RunError
from jaxrec.data import text
from jaxrec.data.text import Example

Message = tuple[str, str]  # (role, what was said)
SENTINELS = 6  # ids that stand for hidden spans of a text
_PROBE = "Hi"  # a text to ask a tokenizer with


class ChatError(RunError, ValueError):
    """A conversation that a model's format cannot write."""


class Marks(NamedTuple):
    """The ids that stand around texts.

    first: a text begins with them; none, or <bos>. start: they open an answer, one at least; what a head is given to
    write one. end: an answer ends with it. sentinels: for hidden spans of a text; texts seldom or never hold them.
    """

    first: tuple[int, ...]
    start: tuple[int, ...]
    end: int
    sentinels: tuple[int, ...]


@runtime_checkable
class ChatFormat(Protocol):
    """What the stages ask of a tokenizer."""

    pad_id: int
    eos_ids: tuple[int, ...]  # ids that end an answer
    size: int  # of the vocabulary

    def example(self, messages: Sequence[Message], learn: str = "last") -> Example:
        """The whole conversation; `learn` "all" answers or only the "last". `loss[0]` is 0. Raises ChatError."""

    def opening(self, messages: Sequence[Message]) -> list[int]:
        """The ids up to where the assistant speaks. Raises ChatError."""

    def marks(self) -> Marks:
        """The ids around a question and its answer. Raises ChatError."""

    def question(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation so far, of which an answer's `marks().start` is no part. Raises ChatError."""

    def answer(self, said: str) -> Example:
        """`marks().start`, an answer, its end; what stands behind the start is learned. Raises ChatError."""

    def encode(self, said: str) -> list[int]:
        """The ids of a text, nothing added."""

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

    def marks(self) -> Marks:
        """As `ChatFormat.marks`."""
        id_of = self.tok.special
        start = tuple(self.tok.encode("\n")) if self.plain else (id_of["<assistant>"],)
        hidden = tuple(id_of[f"<extra_{i}>"] for i in range(SENTINELS))
        return Marks((id_of["<bos>"],), start, id_of["<eos>"], hidden)

    def question(self, messages: Sequence[Message]) -> list[int]:
        """As `ChatFormat.question`; whoever is not the assistant is the user. An earlier answer has no <eos>."""
        ids = [self.tok.special["<bos>"]]
        if self.plain:
            return ids + self.tok.encode("\n".join(said for _, said in messages))
        for role, said in messages:
            mark = "<assistant>" if role == "assistant" else "<user>"
            ids += [self.tok.special[mark], *self.tok.encode(said)]
        return ids

    def answer(self, said: str) -> Example:
        """As `ChatFormat.answer`."""
        start, own = self.marks().start, [*self.tok.encode(said), self.tok.special["<eos>"]]
        return Example([*start, *own], [0.0] * len(start) + [1.0] * len(own))

    def encode(self, said: str) -> list[int]:
        """As `ChatFormat.encode`."""
        return self.tok.encode(said)

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

    def spare_ids(self, count: int) -> list[int]: ...

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

    def encode(self, said: str) -> list[int]:
        """As `ChatFormat.encode`."""
        return self.tok.encode_spans(said)[0]

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

    def marks(self) -> Marks:
        """As `ChatFormat.marks`."""
        return self._marks

    @functools.cached_property
    def _marks(self) -> Marks:
        first = tuple(i for i in self.opening([("user", _PROBE)])[:1] if i == self.tok.bos_id)
        end = self.answer(_PROBE).ids[-1]
        return Marks(first, self._start, end, tuple(self.tok.spare_ids(SENTINELS)))

    @functools.cached_property
    def _start(self) -> tuple[int, ...]:
        """What the template writes to open an answer; where it writes nothing, the last token before one."""
        asked = [("user", _PROBE)]
        opened, closed = (self._text(asked, answer_next=x) for x in (True, False))
        ids = _behind(*self.tok.encode_spans(opened), _shared(opened, closed))
        return tuple(ids or self.opening(asked)[-1:])

    def question(self, messages: Sequence[Message]) -> list[int]:
        """As `ChatFormat.question`."""
        ids, start = self.opening(messages), list(self._start)
        if ids[len(ids) - len(start) :] != start:
            raise ChatError(
                "the chat template opens the answer to this conversation in another way than to a single question:"
                f" {self.tok.decode(ids)[-60:]!r}"
            )
        return ids[: len(ids) - len(start)]

    def answer(self, said: str) -> Example:
        """As `ChatFormat.answer`, as the template writes it behind a short question."""
        asked = self.question([("user", _PROBE)])
        ids, loss = self.example([("user", _PROBE), ("assistant", said)])
        if ids[: len(asked)] != asked or not any(loss):
            raise ChatError(
                "the chat template writes a question in another way once it is answered"
            )
        last = max(i for i, weight in enumerate(loss) if weight)  # a line break may follow
        return Example(ids[len(asked) : last + 1], loss[len(asked) : last + 1])

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
        return [*self._first, *self.encode(whole)]

    @property
    def _first(self) -> tuple[int, ...]:
        return () if self.tok.bos_id is None else (self.tok.bos_id,)

    def marks(self) -> Marks:
        """As `ChatFormat.marks`. An answer begins with a line break, where the tokenizer has one."""
        return self._marks

    @functools.cached_property
    def _marks(self) -> Marks:
        if not self.eos_ids:
            raise ChatError(
                "the model's tokenizer names no end token, so no answer would ever end: set eos_token in its"
                " tokenizer_config.json"
            )
        end = self.eos_ids[0]
        start = tuple(_behind(*self.tok.encode_spans(f"{_PROBE}\n"), len(_PROBE)))
        hidden = tuple(self.tok.spare_ids(SENTINELS))
        return Marks(self._first, start or self._first or (end,), end, hidden)

    def question(self, messages: Sequence[Message]) -> list[int]:
        """As `ChatFormat.question`: a line for each message, the last without its line break."""
        return [*self._first, *self.encode("\n".join(said for _, said in messages))]

    def answer(self, said: str) -> Example:
        """As `ChatFormat.answer`."""
        _, start, end, _ = self.marks()
        own = _behind(*self.tok.encode_spans(f"{_PROBE}\n{said}"), len(_PROBE))
        if tuple(own[: len(start)]) == start:
            own = own[len(start) :]
        return Example([*start, *own, end], [0.0] * len(start) + [1.0] * (len(own) + 1))


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


def _behind(ids: Sequence[int], places: Sequence[tuple[int, int]], at: int) -> list[int]:
    """The ids of what begins at this character or behind it."""
    return [i for i, (start, _) in zip(ids, places, strict=True) if start >= at]


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


def _shared(a: str, b: str) -> int:
    """How many characters two texts begin with in common."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )

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
from collections.abc import Sequence

from jaxrec.data import text
from jaxrec.data.answer_spans import (
    Span,
    Untold,
    answer_span,
    inside,
    meet,
    opening_text,
    overlapping,
    up_to_ends,
)
from jaxrec.data.chat_format import (
    ChatError,
    HubTokenizer,
    Marks,
    bare,
    learned_answers,
    plainly,
    speaker_marks,
    written,
)
from jaxrec.data.chat_format import (
    ChatFormat as ChatFormat,  # where those who use a format look for it
)
from jaxrec.data.message import (
    GIVEN,
    SPOKEN,
    Message,
    context_of,
    fields_of,
    message,
    spoken_of,
    without_context,
)
from jaxrec.data.text import Example

SENTINELS = 6  # ids that stand for hidden spans of a text
_PROBE = "Hi"  # a text to ask a tokenizer with


@dataclasses.dataclass(frozen=True)
class OwnChat:
    """The chat format of a tokenizer that this project trained (`data.text`).

    plain: no marks of who speaks. <bos> prompt completion <eos>, as `PlainChat` writes it.
    """

    tok: text.BytePairTokenizer
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

    def example(
        self, messages: Sequence[Message], learn: str = "last", gaps: list[str] | None = None
    ) -> Example:
        """As `ChatFormat.example`."""
        learned = learned_answers(messages, learn)
        messages = bare(messages)
        if not self.plain:
            return written(lambda: text.dialogue(self.tok, messages, learn=learn))
        ids, loss = [self.tok.special["<bos>"]], [0.0]
        for i, said in enumerate(plainly(messages)):
            own = self.tok.encode(said)
            ids, loss = ids + own, loss + [float(i in learned)] * len(own)
        return Example([*ids, *self.eos_ids], [*loss, 1.0])

    def opening(self, messages: Sequence[Message]) -> list[int]:
        """As `ChatFormat.opening`."""
        messages = bare(messages)
        if not self.plain:
            return written(lambda: text.prompt(self.tok, messages))
        ids = [self.tok.special["<bos>"]]
        for said in plainly([*messages, ("assistant", "")]):
            ids += self.tok.encode(said)
        return ids

    def marks(self) -> Marks:
        """As `ChatFormat.marks`."""
        id_of = self.tok.special
        start = tuple(self.tok.encode("\n")) if self.plain else (id_of["<assistant>"],)
        hidden = tuple(id_of[f"<extra_{i}>"] for i in range(SENTINELS))
        return Marks((id_of["<bos>"],), start, id_of["<eos>"], hidden)

    def role_marks(self) -> tuple[str, ...]:
        """As `ChatFormat.role_marks`: nothing, as special tokens are never read out of a text."""
        return ()

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
        return self._encode(said)[0]

    def decode(self, ids: Sequence[int]) -> str:
        """As `ChatFormat.decode`."""
        return self.tok.decode(ids)

    def role_marks(self) -> tuple[str, ...]:
        """As `ChatFormat.role_marks`: the tokenizer's own tokens."""
        return self.tok.spelled_marks

    def _encode(self, said: str) -> tuple[list[int], list[Span]]:
        return written(lambda: self.tok.encode_spans(said))


@dataclasses.dataclass(frozen=True)
class TemplateChat(_HubChat):
    """A tokenizer's own chat template. The template writes the special tokens, none are added.

    What an answer is follows from the template alone: what it marks itself as the assistant's, and where it marks
    nothing, what of its text depends on the answer (`answer_spans`), up to the first end token behind that; the line
    break that templates put behind the end is not learned.
    """

    @property
    def eos_ids(self) -> tuple[int, ...]:
        return self.tok.answer_ends

    def example(
        self, messages: Sequence[Message], learn: str = "last", gaps: list[str] | None = None
    ) -> Example:
        """As `ChatFormat.example`."""
        answers = learned_answers(messages, learn)
        whole, marked = self._write(messages, answer_next=False)
        self._check_complete(messages, whole)
        every = [i for i, (role, _) in enumerate(messages) if role == "assistant"]
        if marked and answers == every:
            ids, places = self._encode(whole)
            return _first_unlearned(ids, overlapping(places, marked))
        spans = self._spans(messages, answers, whole, gaps)
        ids, places = self._encode(whole)
        if marked:
            marked = [span for span in marked if any(meet(span, own) for own in spans)]
            return _first_unlearned(ids, overlapping(places, marked))
        loss, ended = up_to_ends(ids, places, spans, set(self.eos_ids), whole)
        if gaps is not None and answers:
            gaps += self._surprises(messages, whole, bool(spans) and not ended)
        return _first_unlearned(ids, loss)

    def opening(self, messages: Sequence[Message]) -> list[int]:
        """As `ChatFormat.opening`."""
        try:
            whole = opening_text(self._text, messages, self.tok.opens_answers)
        except ValueError as error:
            raise ChatError(str(error)) from error
        return self._encode(whole)[0]

    def _spans(
        self, messages: Sequence[Message], answers: list[int], whole: str, gaps: list[str] | None
    ) -> list[Span]:
        """Where these answers stand. Raises ChatError where none can be found, or one and `gaps` takes no reasons."""
        spans, reasons = [], []
        for i in answers:
            try:
                spans.append(answer_span(self._text, messages, i, whole, self.tok.opens_answers))
            except Untold as error:
                reasons.append(str(error))
        if reasons and (gaps is None or not spans):
            raise ChatError(f"{reasons[0]}; learn the last answer only (learn='last')")
        if gaps is not None:
            gaps += [f"an answer is not learned: {why}" for why in reasons]
        return spans

    def _surprises(self, messages: Sequence[Message], whole: str, endless: bool) -> list[str]:
        """What will be otherwise when the model is asked: said once with the rows, as nothing in them is wrong."""
        found = [
            "an answer that the chat template ends by no token: generation will not stop"
        ] * endless
        if len(messages) > 1:
            opened = opening_text(self._text, messages[:-1], self.tok.opens_answers)
            if not whole.startswith(opened):
                mark = opened[-12:]
                found.append(
                    f"an answer that is not written as the chat template opens one ({mark!r})"
                )
        return found

    def _check_complete(self, messages: Sequence[Message], whole: str) -> None:
        """Raises ChatError where the template writes a conversation without what it says or gives beside its texts."""
        for name in GIVEN:
            if context_of(messages).get(name):
                if not self._unlike(without_context(messages, name), whole):
                    raise ChatError(f"the chat template has no place for {name}")
        for name in SPOKEN:
            holders = [i for i, one in enumerate(messages) if spoken_of(one).get(name)]
            if not holders:
                continue
            # thoughts of earlier turns are left out by design, calls are not
            groups = [[i] for i in holders] if name.endswith(("_calls", "_call")) else [holders]
            for group in groups:
                rest = [
                    _without_field(x, name) if i in group else x for i, x in enumerate(messages)
                ]
                if not self._unlike(rest, whole):
                    raise ChatError(f"the chat template has no place for {name}")

    def _unlike(self, messages: Sequence[Message], whole: str) -> bool:
        try:
            return self._text(messages, False) != whole
        except ChatError:  # it asks for what was left out
            return True

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
        opened = opening_text(self._text, asked, self.tok.opens_answers)
        closed = self._text(asked, answer_next=False)
        ids = _behind(*self.tok.encode_spans(opened), _shared(opened, closed))
        return tuple(ids or self.opening(asked)[-1:])

    def role_marks(self) -> tuple[str, ...]:
        """As `ChatFormat.role_marks`: tokens, and the words by which the template changes the speaker."""
        return self._role_marks

    @functools.cached_property
    def _role_marks(self) -> tuple[str, ...]:
        return speaker_marks(self._text, self.tok.spelled_marks)

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
        """As `ChatFormat.answer`, as the template writes it behind a short question.

        Where the template writes no end behind an answer, the model's end token stands there.
        """
        if not said.strip():
            start = list(self._start)
            return Example([*start, self.marks().end], [0.0] * len(start) + [1.0])
        ids, loss = self.example([("user", _PROBE), ("assistant", said)])
        at = len(self._asked)
        if ids[:at] != self._asked or not any(loss):
            raise ChatError(
                "the chat template writes a question in another way once it is answered"
            )
        last = 1 + max(i for i, weight in enumerate(loss) if weight)  # a line break may follow
        ids, loss = ids[at:last], loss[at:last]
        if ids[-1] in self.eos_ids:
            return Example(ids, loss)
        return Example([*ids, _end_of(self.eos_ids)], [*loss, 1.0])

    @functools.cached_property
    def _asked(self) -> list[int]:
        return self.question([("user", _PROBE)])

    def _text(self, messages: Sequence[Message], answer_next: bool) -> str:
        return self._write(messages, answer_next)[0]

    def _content(self, one: Message) -> str | list[dict[str, str]]:
        """What a user or a tool says is letters, special tokens that it spells out too."""
        own = one[0] in ("assistant", "system", "developer")
        said = one[1] if own else self.tok.as_letters(one[1])
        return [{"type": "text", "text": said}] if self.tok.reads_parts else said

    def _write(self, messages: Sequence[Message], answer_next: bool) -> tuple[str, list[Span]]:
        named = [
            {"role": _hf_role(one[0]), "content": self._content(one), **fields_of(one)}
            for one in messages
        ]
        context = dict(context_of(messages))
        more = context.pop("chat_template_kwargs", {}) | context
        try:
            return self.tok.chat_spans(named, answer_next=answer_next, **more)
        except (ValueError, TypeError) as error:
            raise ChatError(str(error)) from error


@dataclasses.dataclass(frozen=True)
class PlainChat(_HubChat):
    """A base model's way: what was said, message after message, as it stands; <bos> before it and <eos> behind.

    A prompt and its completion meet without anything between them, so data for a base model bring their own white
    space. Of a longer conversation the messages stand on lines of their own.
    """

    def example(
        self, messages: Sequence[Message], learn: str = "last", gaps: list[str] | None = None
    ) -> Example:
        """As `ChatFormat.example`."""
        learned = learned_answers(messages, learn)
        whole, spans = "", []
        for i, said in enumerate(plainly(bare(messages))):
            if i in learned:
                spans.append((len(whole), len(whole) + len(said)))
            whole += said
        ids, places = self._encode(whole)
        loss = inside(places, spans)
        first = [] if self.tok.bos_id is None else [self.tok.bos_id]
        last = list(self.eos_ids[:1])
        return _first_unlearned(
            [*first, *ids, *last], [0.0] * len(first) + loss + [1.0] * len(last)
        )

    def opening(self, messages: Sequence[Message]) -> list[int]:
        """As `ChatFormat.opening`."""
        whole = "".join(plainly([*bare(messages), ("assistant", "")]))
        return [*self._first, *self.encode(whole)]

    @property
    def _first(self) -> tuple[int, ...]:
        return () if self.tok.bos_id is None else (self.tok.bos_id,)

    def marks(self) -> Marks:
        """As `ChatFormat.marks`. An answer begins with a line break, where the tokenizer has one."""
        return self._marks

    @functools.cached_property
    def _marks(self) -> Marks:
        end = _end_of(self.eos_ids)
        start = tuple(_behind(*self.tok.encode_spans(f"{_PROBE}\n"), len(_PROBE)))
        hidden = tuple(self.tok.spare_ids(SENTINELS))
        return Marks(self._first, start or self._first or (end,), end, hidden)

    def question(self, messages: Sequence[Message]) -> list[int]:
        """As `ChatFormat.question`: a line for each message, the last without its line break."""
        said = "\n".join(said for _, said in bare(messages))
        return [*self._first, *self.encode(self.tok.as_letters(said))]

    def answer(self, said: str) -> Example:
        """As `ChatFormat.answer`."""
        _, start, end, _ = self.marks()
        own = _behind(*self.tok.encode_spans(f"{_PROBE}\n{said}"), len(_PROBE))
        if tuple(own[: len(start)]) == start:
            own = own[len(start) :]
        return Example([*start, *own, end], [0.0] * len(start) + [1.0] * (len(own) + 1))


def _hf_role(role: str) -> str:
    return "user" if role == "customer" else role


def _end_of(eos_ids: Sequence[int]) -> int:
    """The id that ends an answer. Raises ChatError where a tokenizer names none."""
    if not eos_ids:
        raise ChatError(
            "the model's tokenizer names no end token, so no answer would ever end: set eos_token in its"
            " tokenizer_config.json"
        )
    return eos_ids[0]


def _behind(ids: Sequence[int], places: Sequence[tuple[int, int]], at: int) -> list[int]:
    """The ids of what begins at this character or behind it."""
    return [i for i, (start, _) in zip(ids, places, strict=True) if start >= at]


def _without_field(one: Message, name: str) -> Message:
    fields = {key: value for key, value in fields_of(one).items() if key != name}
    return message(*one, fields, context_of([one]))


def _first_unlearned(ids: list[int], loss: list[float]) -> Example:
    """Nothing predicts the first token of a text: in a packed row that would be the text before it."""
    return Example(ids, [0.0, *loss[1:]][: len(ids)])


def _shared(a: str, b: str) -> int:
    """How many characters two texts begin with in common."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )

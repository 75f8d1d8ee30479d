"""What the stages ask of a chat format and of a tokenizer, and what all formats share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxrec.config import RunError
from jaxrec.data.answer_spans import Span
from jaxrec.data.message import GIVEN, SPOKEN, Message, context_of, fields_of
from jaxrec.data.text import Example, TextError


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

    def example(
        self, messages: Sequence[Message], learn: str = "last", gaps: list[str] | None = None
    ) -> Example:
        """The whole conversation; `learn` "all" answers or only the "last". `loss[0]` is 0.

        gaps: takes the reason why an answer is not learned where others of the conversation are; without it that is a
        ChatError, as is a conversation that the format cannot write, or would write without a part of it.
        """

    def opening(self, messages: Sequence[Message]) -> list[int]:
        """The ids up to where the assistant speaks. Raises ChatError."""

    def marks(self) -> Marks:
        """The ids around a question and its answer. Raises ChatError."""

    def role_marks(self) -> tuple[str, ...]:
        """What changes the speaker, or is a token, where a text spells it out (`dialogue.hostile`'s tokens)."""

    def question(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation so far, of which an answer's `marks().start` is no part. Raises ChatError."""

    def answer(self, said: str) -> Example:
        """`marks().start`, an answer, its end; what stands behind the start is learned. Raises ChatError."""

    def encode(self, said: str) -> list[int]:
        """The ids of a text, nothing added."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""


@runtime_checkable
class HubTokenizer(Protocol):
    """What is needed of a `hub.Tokenizer`; this floor does not know that one."""

    pad_id: int
    bos_id: int | None
    eos_ids: tuple[int, ...]
    answer_ends: tuple[int, ...]  # and what the chat template writes behind an answer
    opens_answers: bool  # whether the chat template writes anything where the assistant is to speak

    reads_parts: bool  # whether the template reads contents only as lists of parts
    hash: str  # of the tokenizer's file
    spelled_marks: tuple[str, ...]  # tokens that stand for no text when they are spelled out

    def __len__(self) -> int: ...

    def encode_spans(self, said: str) -> tuple[list[int], list[tuple[int, int]]]: ...

    def as_letters(self, said: str) -> str: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def spare_ids(self, count: int) -> list[int]: ...

    def chat_spans(
        self, messages: Sequence[Mapping[str, Any]], answer_next: bool = True, **more: Any
    ) -> tuple[str, list[Span]]: ...


def learned_answers(messages: Sequence[Message], learn: str) -> list[int]:
    """The numbers of the answers to be learned: those of weight 0 are not (as in OpenAI's files)."""
    if learn not in ("all", "last"):
        raise ChatError(f"learn={learn!r}: all of the assistant's answers, or the last?")
    if not messages or messages[-1][0] != "assistant":
        raise ChatError("a conversation to learn from ends with what the assistant says")
    answers = [i for i, (role, _) in enumerate(messages) if role == "assistant"]
    answers = answers if learn == "all" else answers[-1:]
    return [i for i in answers if fields_of(messages[i]).get("weight") not in (0, False)]


def bare(messages: Sequence[Message]) -> list[Message]:
    """The messages as (role, text) alone. Raises ChatError where more than that is said or given."""
    for name in [*GIVEN, *SPOKEN]:
        if context_of(messages).get(name) or any(fields_of(one).get(name) for one in messages):
            raise ChatError(
                f"this model's format has no place for {name}; a chat template may have"
            )
    if any(fields_of(one).get("weight") in (0, False) for one in messages):
        raise ChatError("this model's format learns every answer: it has no place for weight 0")
    return [("system" if role == "developer" else role, said) for role, said in messages]


def written(write: Callable[[], Any]) -> Any:
    """What `write` gives; whatever a tokenizer cannot take is a ChatError."""
    try:
        return write()
    except (TextError, UnicodeError, TypeError) as error:
        raise ChatError(f"the tokenizer cannot write it: {error}") from error


def plainly(messages: Sequence[Message]) -> list[str]:
    """What is said, with the line breaks between: none where there is but a prompt and its completion."""
    if len(messages) == 2:
        return [said for _, said in messages]
    return [said if i == len(messages) - 1 else f"{said}\n" for i, (_, said) in enumerate(messages)]


def speaker_marks(write: Callable[..., str], tokens: Sequence[str]) -> tuple[str, ...]:
    """The tokens, and the words that a template puts between two turns and that are none in a dictionary ("[/INST]").

    write: (messages, answer_next=False) -> the text of a conversation.
    """
    probe = "Kqx7probe9vZ"  # no template has a rule for it
    talk = [(role, probe) for role in ("user", "assistant", "user", "assistant")]
    try:
        between = " ".join(write(talk, answer_next=False).split(probe)[1:-1])
    except ChatError:
        between = ""
    for token in tokens:
        between = between.replace(token, " ")
    own = [word for word in between.split() if len(word) > 2 and not word.isalnum()]
    return tuple(dict.fromkeys([*tokens, *own]))

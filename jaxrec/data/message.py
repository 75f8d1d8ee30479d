"""One message of a conversation: who speaks and what is said, and with it whatever else its template may show.

A pair (role, text) is a message. Most need no more than that; `ChatMessage` is such a pair, too, that carries on what
rows of tool-using and reasoning models have besides: tool calls, thoughts, the schemas of the tools.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Message = tuple[str, str]  # (role, what was said); a ChatMessage is one

# What the assistant says beside its text, and what a conversation gives to its model: neither may be lost unsaid.
SPOKEN = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
GIVEN = ("tools", "documents")


class ChatMessage(tuple[str, str]):
    """(role, text) with more to it.

    fields: of the message, as a template reads them ("tool_calls", "name", ...); {"content": None} stands for a
    message without any text. context: of the whole conversation, kept with its first message so that it goes wherever
    that goes: "tools", "documents", and "chat_template_kwargs", further variables of the template.
    Equal to a plain pair only where there is nothing else to it.
    """

    fields: Mapping[str, Any]
    context: Mapping[str, Any]

    def __new__(
        cls,
        role: str,
        text: str,
        fields: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> "ChatMessage":
        one = super().__new__(cls, (role, text))
        one.fields, one.context = dict(fields or {}), dict(context or {})
        return one

    def __getnewargs__(self) -> tuple:
        return (*self, self.fields, self.context)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, tuple):
            return NotImplemented
        return tuple.__eq__(self, other) and _more(self) == _more(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return tuple.__hash__(self)

    def __repr__(self) -> str:
        return f"ChatMessage{self.__getnewargs__()!r}"


def message(role: str, text: str, fields: Mapping[str, Any], context: Mapping[str, Any]) -> Message:
    """A plain pair where nothing else is there to be said.

    role: who speaks. text: what is said. fields: what else the message holds (tool calls, a name), as the template
    reads it. context: what the template is given beside the messages (schemas of tools, documents).
    """
    return ChatMessage(role, text, fields, context) if fields or context else (role, text)


def fields_of(one: Message) -> Mapping[str, Any]:
    """What a message has beside its text."""
    return one.fields if isinstance(one, ChatMessage) else {}


def context_of(messages: Sequence[Message]) -> Mapping[str, Any]:
    """What the conversation gives to its model."""
    first = messages[0] if messages else None
    return first.context if isinstance(first, ChatMessage) else {}


def spoken_of(one: Message) -> dict[str, Any]:
    """What is said in a message beside its text: tool calls, thoughts."""
    return {name: value for name, value in fields_of(one).items() if name in SPOKEN and value}


def with_text(one: Message, text: str) -> Message:
    """The message with another text, and nothing else said in it."""
    left_out = (*SPOKEN, "content")
    fields = {name: value for name, value in fields_of(one).items() if name not in left_out}
    return message(one[0], text, fields, context_of([one]))


def without_context(messages: Sequence[Message], name: str) -> list[Message]:
    """The conversation without one of the things that it gives to its model."""
    context = {key: value for key, value in context_of(messages).items() if key != name}
    (role, text), *rest = messages
    return [message(role, text, fields_of(messages[0]), context), *rest]


def _more(one: tuple) -> str:
    if not isinstance(one, ChatMessage):
        return "[{}, {}]"
    return json.dumps([one.fields, one.context], sort_keys=True, default=str)

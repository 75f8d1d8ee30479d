"""The layouts in which files hold conversations: one row of JSON in, its messages out, or what is wrong with it.

    {"messages": [{"role": "user", "content": "..."}, ...]}        also conversations, conversation, dialog, turns, ...
    {"conversations": [{"from": "human", "value": "..."}, ...]}    ShareGPT; {"speaker", "utterance"} as in SGD
    {"prompt": "...", "completion": "..."}                         either may be a list of messages; also question and
                                                                   answer, query and response, prompt and response, ...
    {"instruction": "...", "input": "...", "output": "..."}        Alpaca; with "system" and "history" where there are

"tools", "documents" and "chat_template_kwargs" of a row go with its first message, a message's tool calls and thoughts
with that message. Contents may be parts, of which text is read. Whatever else speaks (an image, a role, a layout that
is not known) is refused by its name, never dropped.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxrec.data.message import ChatMessage, Message, fields_of, message, spoken_of

CONVERSATIONS = (
    "messages", "conversations", "conversation", "turns", "dialog", "dialogue", "dialogs", "chat",
)  # fmt: skip
PROMPTS = ("prompt", "instruction", "question", "query", "input")
ANSWERS = ("completion", "response", "output", "answer", "positive")
_BESIDES = {"instruction": ("input", "context"), "question": ("context",)}  # more of the prompt
_SYSTEMS = ("system", "system_prompt")
_ROLE_KEYS = ("role", "from", "speaker")
_TEXT_KEYS = ("content", "value", "text", "utterance")
_SEEN = ("image", "images", "video", "videos", "audio", "audios")  # what no text model reads
_TEXT_PARTS = ("text", "input_text", "output_text")

ROLES = ("system", "developer", "user", "customer", "assistant", "tool")
_OTHER_ROLES = {
    "human": "user", "prompter": "user", "gpt": "assistant", "bot": "assistant", "chatbot": "assistant",
    "chatgpt": "assistant", "model": "assistant", "ai": "assistant", "bing": "assistant", "agent": "assistant",
    "observation": "tool", "function": "tool", "ipython": "tool", "environment": "tool",
    "function_response": "tool", "tool_response": "tool", "tool_result": "tool", "tool_output": "tool",
}  # fmt: skip
_CALLS = ("function_call", "tool_call", "tool_calls", "function-call")  # roles whose text is a call


def messages_of(row: Any) -> tuple[Message, ...]:
    """The messages of one row, the last one the assistant's. Raises ValueError, KeyError or TypeError.

    A message is a pair (role, text), and a `ChatMessage` where there is more to it.
    """
    check_row(row)
    if (media := _media(row)) is not None:
        raise ValueError(f"{media!r}: only text is read")
    messages = _system(row) + _conversation(row)
    while messages and messages[-1][0] != "assistant":  # what nobody answered teaches nothing
        messages.pop()
    if not messages:
        raise ValueError("nothing is said by the assistant")
    if len(messages) == 1:
        raise ValueError("an answer without a prompt")
    if not messages[-1][1].strip() and not spoken_of(messages[-1]):
        raise ValueError("the completion is empty")
    if context := _context(row):
        (role, text), *_ = messages
        messages[0] = ChatMessage(role, text, fields_of(messages[0]), context)
    return tuple(messages)


def check_row(row: Any) -> None:
    """Raises ValueError or TypeError for what `json_lines` could not read, and what is no object."""
    if isinstance(row, json.JSONDecodeError):
        raise ValueError(f"no JSON ({row.msg})")
    if isinstance(row, ValueError):
        raise ValueError(str(row))
    if not isinstance(row, Mapping):
        raise TypeError("no JSON object")


def prompt_of(row: Mapping[str, Any]) -> Any:
    """The prompt of a row, a text or a list of messages. Raises KeyError where none is there, ValueError for two."""
    if "prompt" in row and row["prompt"] is not None:
        return row["prompt"]
    name = _one_of(row, PROMPTS[1:] if "instruction" not in row else ("instruction",), "prompt")
    parts = [row[name], *(row.get(key) for key in _BESIDES.get(name, ()))]
    if len(parts) > 1 and all(isinstance(part, str | None) for part in parts):
        return "\n\n".join(part for part in parts if part and part.strip())
    return row[name]


# --------------------------------------------------------------------------------------------------- rows


def _conversation(row: Mapping[str, Any]) -> list[Message]:
    sides = "prompt" in row and "completion" in row
    listed = [name for name in CONVERSATIONS if row.get(name) is not None]
    if listed and not sides:
        if len(listed) > 1:
            raise ValueError(f"{' and '.join(listed)}: which of them is the conversation?")
        return _messages(row[listed[0]], listed[0])
    if "prompt" in row or any(name in row for name in ANSWERS):
        answer = "completion" if sides else _one_of(row, ANSWERS, "completion")
        said = row[answer]
        if answer == "positive" and isinstance(said, list) and len(said) == 1:
            said = said[0]
        return _history(row) + _side(prompt_of(row), "user") + _side(said, "assistant")
    raise ValueError(
        f"lacks a conversation: its keys are {sorted(map(str, row))}, and known are {', '.join(CONVERSATIONS)},"
        f" or one of {', '.join(PROMPTS)} with one of {', '.join(ANSWERS)}"
    )


def _one_of(row: Mapping[str, Any], names: Sequence[str], what: str) -> str:
    there = [name for name in names if row.get(name) is not None]
    if not there:
        raise KeyError(f"a {what} (its keys are {sorted(map(str, row))})")
    if len(there) > 1:
        raise ValueError(f"{' and '.join(there)}: which of them is the {what}?")
    return there[0]


def _system(row: Mapping[str, Any]) -> list[Message]:
    for name in _SYSTEMS:
        if row.get(name):
            return [("system", _said(row[name]))]
    return []


def _history(row: Mapping[str, Any]) -> list[Message]:
    """Alpaca's earlier rounds: pairs of what was asked and what was answered."""
    rounds = row.get("history") or []
    if not isinstance(rounds, list) or not all(isinstance(r, list) and len(r) == 2 for r in rounds):
        raise ValueError("history: pairs of a question and its answer are expected")
    return [
        (role, _said(text))
        for both in rounds
        for role, text in zip(("user", "assistant"), both, strict=True)
    ]


def _context(row: Mapping[str, Any]) -> dict[str, Any]:
    tools = _parsed(row.get("tools"), "tools")
    if functions := _parsed(row.get("functions"), "functions"):
        tools = (tools or []) + [{"type": "function", "function": one} for one in functions]
    kwargs = row.get("chat_template_kwargs")
    if kwargs and not isinstance(kwargs, Mapping):
        raise TypeError("chat_template_kwargs: an object is expected")
    found = {
        "tools": tools,
        "documents": _parsed(row.get("documents"), "documents"),
        "chat_template_kwargs": kwargs,
    }
    return {name: _whole(value, name) for name, value in found.items() if value}


def _media(row: Mapping[str, Any]) -> str | None:
    return next((name for name in _SEEN if row.get(name)), None)


# ----------------------------------------------------------------------------------------------- messages


def _side(value: Any, role: str) -> list[Message]:
    if isinstance(value, list):
        return _messages(value, role)
    if isinstance(value, Mapping):
        return [_message(value)]
    return [(role, _said(value))]


def _messages(value: Any, name: str) -> list[Message]:
    if isinstance(value, str) and value.lstrip().startswith("["):  # a table's column of JSON
        value = _parsed(value, name)
    if not isinstance(value, list):
        raise TypeError(f"{name}: a list of messages is expected, not {type(value).__name__}")
    return [_message(one) for one in value]


def _message(one: Any) -> Message:
    if isinstance(one, tuple) and len(one) == 2:
        one = {"role": one[0], "content": one[1]}
    if not isinstance(one, Mapping):
        raise TypeError(
            f"a message is an object with role and content, not {type(one).__name__}: who says it?"
        )
    who = next((key for key in _ROLE_KEYS if key in one), None)
    what = next((key for key in _TEXT_KEYS if key in one), None)
    spoken = {name: one[name] for name in one if name not in (who, what)}
    if who is None or (what is None and not spoken.get("tool_calls")):
        keys = sorted(map(str, one))
        raise ValueError(
            f"lacks {'role' if who is None else 'content'} in a message with the keys {keys}"
        )
    if (media := _media(one)) is not None:
        raise ValueError(f"{media!r} in a message: only text is read")
    role, value = _role(one[who], sgd=who == "speaker"), one.get(what)
    fields = {name: x for name, x in spoken.items() if x is not None}
    if "tool_calls" in fields:
        fields["tool_calls"] = _parsed(fields["tool_calls"], "tool_calls")
    if role == "call":
        role, value, fields = "assistant", None, fields | {"tool_calls": _call(value)}
    if value is None and any(fields.get(name) for name in ("tool_calls", "function_call")):
        value, fields = "", fields | {"content": None}
    return message(role, _said(value), _whole(fields, "a message"), {})


def _role(role: Any, sgd: bool) -> str:
    if sgd and role in ("USER", "SYSTEM"):  # whose system is the one that answers
        return "user" if role == "USER" else "assistant"
    name = role.strip().casefold() if isinstance(role, str) else role
    if name in _CALLS:
        return "call"
    name = _OTHER_ROLES.get(name, name) if isinstance(name, str) else name
    if name not in ROLES:
        known = sorted({*ROLES, *_OTHER_ROLES, *_CALLS})
        raise ValueError(f"role {role!r} is not one of {known}")
    return name


def _call(value: Any) -> list[dict[str, Any]]:
    """The calls that ShareGPT's role `function_call` writes as JSON."""
    try:
        calls = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError("a function_call that is no JSON") from error
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(isinstance(c, Mapping) and c.get("name") for c in calls):
        raise ValueError("a function_call without the name of its function")
    return [{"type": "function", "function": dict(c)} for c in calls]


def _parsed(value: Any, name: str) -> list[dict[str, Any]] | None:
    """A list of objects, which tables hold as a text of JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except ValueError as error:
            raise ValueError(f"{name}: a text that is no JSON") from error
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise TypeError(f"{name}: a list of objects is expected")
    return value


def _said(value: Any) -> str:
    if isinstance(value, list):
        value = "\n".join(_part(part) for part in value)  # as vLLM and llama.cpp join them
    if not isinstance(value, str):
        raise TypeError(f"a text is expected, not {type(value).__name__}")
    return _whole(value, "a text")


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
    if kind not in _TEXT_PARTS or not isinstance(part.get("text"), str):
        raise ValueError(f"a part of type {kind!r} in a message: only text is read")
    return part["text"]


def _whole(value: Any, what: str) -> Any:
    """The value itself. Raises ValueError for half of a character, which no tokenizer can write."""
    try:
        (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(
            f"half of a character in {what} (\\u{ord(half):04x}, a lone surrogate)"
        ) from error
    return value

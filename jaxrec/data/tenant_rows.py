"""One row of a tenant's files as a record: a dialogue, a page, a preference or a thumb, whatever its dialect. No files.

    dialogue     any layout of `jaxrec.data.row_layouts`: messages, ShareGPT, prompt and completion, question and answer
    preference   {"prompt" or "question", "chosen", "rejected"}, and "why"
    thumb        {"prompt" or "question", "completion" or "answer", "label" or "liked"}
    page         {"text"}, and "title", "id"; or the text alone

Every function raises ValueError, KeyError or TypeError, which name what is wrong; `reason` makes words of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxrec.data.message import Message
from jaxrec.data.pairs import pair_of, thumb_of
from jaxrec.data.row_layouts import ANSWERS, check_row, messages_of
from jaxrec.data.tenant import Dialogue, Feedback, Page, Preference, Turn

_UP = ("up", "yes", "true", "1", "+1", "good", "👍")
_DOWN = ("down", "no", "false", "0", "-1", "bad", "👎")
_LIKED = ("label", "liked", "like", "thumb", "rating")


def dialogue_of(row: Any, name: str) -> Dialogue:
    """A conversation up to its last answer. `name` is its id where the row has none."""
    row = _plain(row)
    messages = messages_of(row)
    if messages[-2][0] not in ("user", "customer"):
        raise ValueError(f"the last answer follows a turn of the {messages[-2][0]}")
    topic = row.get("topic", "")
    return Dialogue(
        _id(row, name),
        _turns(messages),
        topic if isinstance(topic, str) else str(topic),
        _texts(row.get("pages", ()), "pages"),
        _texts(row.get("facts", ()), "facts"),
    )


def preference_of(row: Any, name: str) -> Preference:
    """A question with the answer that is liked and the one that is not."""
    row = _plain(row)
    pair = pair_of(row, name)
    *before, asked = _turns(pair.prompt)
    why = row.get("why", "")
    return Preference(
        _id(row, name), asked.text, pair.chosen, pair.rejected, str(why), tuple(before)
    )


def thumb_row_of(row: Any, name: str) -> Feedback:
    """An answer with its thumb: true, 1, "up", "yes", and what is the opposite."""
    row = _plain(row)
    given = next((row[key] for key in _LIKED if key in row), None)
    if given is None:
        raise KeyError("label (or liked)")
    said = next((row[key] for key in ANSWERS if key in row), None)
    if said is None:
        raise KeyError("completion (or answer)")
    rest = {key: value for key, value in row.items() if key not in ANSWERS}
    thumb = thumb_of({**rest, "completion": said, "label": _liked(given)}, name)
    *before, asked = _turns(thumb.prompt)
    return Feedback(_id(row, name), asked.text, thumb.answer, thumb.liked, tuple(before))


def page_of(row: Any, name: str) -> Page:
    """A page of the knowledge base. Without a title it has the name."""
    row = _plain({"text": row} if isinstance(row, str) else row)
    said = row["text"] if "text" in row else row["content"] if "content" in row else None
    if said is None:
        raise KeyError("text")
    if not isinstance(said, str) or not said.strip():
        raise ValueError("the page is empty")
    title = row.get("title") or name
    return Page(_id(row, name), str(title), said.strip())


def reason(error: Exception) -> str:
    """Why a row was not read, in words."""
    return f"lacks {error.args[0]}" if isinstance(error, KeyError) else str(error)


def check_text(value: Any) -> None:
    """Raises ValueError where a string of a JSON value is no valid Unicode: no tokenizer can read that."""
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(
                "half a surrogate pair: a character was cut in two when this was written"
            ) from None
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            check_text(key)
            check_text(inner)
    elif isinstance(value, list):
        for inner in value:
            check_text(inner)


# ------------------------------------------------------------------------------------------ inside


def _plain(row: Any) -> Mapping[str, Any]:
    check_row(row)
    check_text(row)
    return row


def _turns(messages: Sequence[Message]) -> tuple[Turn, ...]:
    return tuple(Turn("customer" if role == "user" else role, said) for role, said in messages)


def _liked(value: Any) -> bool:
    word = str(int(value) if value in (0.0, 1.0, -1.0) else value).strip().casefold()
    if word in _UP or word in _DOWN:
        return word in _UP
    raise ValueError(f"label {value!r} is neither true nor false")


def _id(row: Mapping[str, Any], name: str) -> str:
    given = row.get("id")
    return str(given) if isinstance(given, str | int) and str(given).strip() else name


def _texts(value: Any, what: str) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise TypeError(f"{what}: a list of texts is expected")
    return tuple(value)

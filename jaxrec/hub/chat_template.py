"""Floor 3: chat templates as `transformers` renders them, and what a template alone can tell of answers.

A template comes with weights from strangers: it runs in the sandbox of `transformers`, sees what it sees there, and
whatever goes wrong in it is one ValueError.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Span = tuple[int, int]
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_PROBE = "Kqx7probe9vZ"  # no template has a rule for it


def render(
    template: str, messages: Sequence[Mapping[str, Any]], answer_next: bool, **more: Any
) -> tuple[str, list[Span]]:
    """(the text of a chat, what of it stands in the template's {% generation %} tags), as characters.

    more: "tools", "documents", special tokens, further variables. Raises ValueError, one line, for whatever a
    template does wrong or does not take.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    tags = _GENERATION.search(template) is not None
    # as in apply_chat_template: a key without a value is no key
    named = [{key: x for key, x in one.items() if x is not None} for one in messages]
    try:
        (text,), spans = render_jinja_template(
            [named],
            chat_template=template,
            add_generation_prompt=answer_next,
            return_assistant_tokens_mask=tags,
            **more,
        )
    except Exception as error:  # a stranger's program: anything may be raised
        said = (str(error).strip().splitlines() or [""])[0]
        kind = "" if type(error).__name__ == "TemplateError" else f"{type(error).__name__}: "
        raise ValueError(f"{kind}{said or 'no reason given'}") from error
    return text, [(a, b) for a, b in spans[0] if a < b] if tags else []


def ends_of_answers(
    write: Callable[..., str],
    encode: Callable[[str], list[int]],
    added: Mapping[int, str],
    parts: bool = False,
) -> tuple[int, ...]:
    """The tokens that a template puts behind an answer: behind a last one, and behind one that calls a tool.

    Nothing where the template closes an answer by no token of these, or cannot be probed.

    Args:
      write: (messages, answer_next=False) -> the rendered text.
      encode: a text -> its ids.
      added: {id: text} of the tokenizer's own tokens, which no text is split into.
      parts: the template reads a message's content as a list of parts (`reads_parts`).
    """
    call = {"type": "function", "function": {"name": _PROBE, "arguments": {}}}
    found = []
    for answer in ({"content": _PROBE}, {"content": "", "tool_calls": [call]}):
        talk = [{"role": "user", "content": "x"}, {"role": "assistant", **answer}]
        if parts:
            talk = [one | {"content": [{"type": "text", "text": one["content"]}]} for one in talk]
        try:
            # What stands behind a word that the template cannot know is what it writes behind an answer.
            _, mark, behind = write(talk, answer_next=False).rpartition(_PROBE)
        except ValueError:
            continue
        tokens = [i for i in encode(behind) if i in added] if mark else []
        if not tokens:
            continue
        # a call's own marks stand before its end, and other marks (of a whole text's end) behind an answer's
        i = tokens[-1] if "tool_calls" in answer else tokens[0]
        before, _, after = behind.partition(added[i])
        if not (after if "tool_calls" in answer else before).strip():
            found.append(i)
    return tuple(dict.fromkeys(found))


def opens_answers(write: Callable[..., str]) -> bool:
    """Whether the template writes anything of its own where the assistant is to speak (`add_generation_prompt`)."""
    talk = [{"role": "user", "content": "x"}]
    try:
        return write(talk, answer_next=True) != write(talk, answer_next=False)
    except ValueError:
        return True


def reads_parts(write: Callable[..., str]) -> bool:
    """Whether the template reads a message's content only as a list of parts: those of models that see do."""

    def writes(content: Any) -> bool:
        try:
            return _PROBE in write([{"role": "user", "content": content}], answer_next=False)
        except ValueError:
            return False

    return not writes(_PROBE) and writes([{"type": "text", "text": _PROBE}])

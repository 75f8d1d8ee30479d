"""A chat over a pipe: a message, a command or an object a line; one JSON object a line back, in the same order."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxrec.chat.orders import Session, follow, is_order
from jaxrec.config import RunError


def answer_lines(session: Session, lines: Iterable[bytes], put: Callable[[str], None]) -> int:
    """Answers every line that is not blank; how many could be. Raises RunError where there was none to answer, or none
    could be.

    session: who answers. lines: bytes, as nobody knows in which encoding they come. put: takes a line of JSON.
    """
    for note in session.notes:
        print(f"note: {note}", file=sys.stderr)
    answered = asked = 0
    for line in lines:
        if not (line := line.rstrip(b"\r\n")).strip():
            continue
        asked += 1
        row = _answer(session, line)
        answered += "error" not in row
        put(json.dumps(row, ensure_ascii=False))
    if not asked:
        raise RunError("there is no message in the input: a line is one")
    if not answered:
        raise RunError(f"none of {asked} lines could be answered: {row['error']}")
    return answered


def _answer(session: Session, line: bytes) -> dict[str, Any]:
    text = line.decode("utf-8", "replace").lstrip("\ufeff")
    shown = text if len(text) <= 500 else f"{text[:500]}..."
    message: str | bytes = line.removeprefix(b"\xef\xbb\xbf")
    try:
        given = json.loads(text) if text.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        given = None
    if isinstance(given, Mapping):
        message = next((given[k] for k in ("message", "question", "text") if k in given), None)
        if not isinstance(message, str):
            return {"message": shown, "error": 'an object has a "message", and this one has none'}
        text = shown = message
    try:
        if is_order(text):
            return {"command": text.strip(), "text": follow(session, text)}
        return {"message": shown, **session.say(message).told}
    except RunError as error:
        return {"message": shown, "error": str(error)}

"""What can be asked of any session beside talking to it: /why, /sources, /like, /dislike, /profile, /forget, /help."""

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from jaxrec.config import RunError

HELP = {
    "/why": "how the last answer came about: what was decided, how long each stage took, what stood in the prompt",
    "/sources": "what the last answer stands on, to the character",
    "/like": "a thumb up for the last answer; of a list, with the item's place: /like 2",
    "/dislike": "a thumb down; a disliked item does not come again",
    "/profile": "what is known of you and of whom you talk to",
    "/forget": "lets go of this conversation and of your thumbs, in memory and on disk",
    "/help": "these",
}


class OrderError(RunError, ValueError):
    """A command that is none, or that cannot be followed now."""


@dataclasses.dataclass(frozen=True)
class Said:
    """What a session answered. told: as plain values, for JSON."""

    text: str
    told: dict[str, Any]


@runtime_checkable
class Session(Protocol):
    """A conversation that goes on."""

    title: str
    notes: list[str]  # what was chosen or guessed when it was opened

    def say(self, message: str | bytes, tell: Callable[[str], None] | None = None) -> Said:
        """The answer to a message; `tell` hears it in pieces."""

    def why(self) -> str: ...

    def sources(self) -> str: ...

    def judge(self, liked: bool, place: int | None) -> str: ...

    def profile(self) -> str: ...

    def forget(self) -> str: ...


def is_order(message: str) -> bool:
    """Whether a message is a command. "/ or" and "/etc/hosts" are not: a command is a word of letters."""
    word = message.strip().split(maxsplit=1)[0] if message.strip() else ""
    return word.startswith("/") and word[1:].isalpha()


def follow(session: Session, message: str) -> str:
    """What a command gives. Raises OrderError, with the nearest, for one that is none."""
    word, _, rest = message.strip().partition(" ")
    word, rest = word.lower(), rest.strip()
    if word not in HELP:
        close = difflib.get_close_matches(word, HELP, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(HELP)}"
        raise OrderError(f"there is no command {word}; {hint}")
    if word in ("/like", "/dislike"):
        if rest and not rest.isdecimal():
            raise OrderError(f"{word} takes the place of an item, as in {word} 2, not {rest!r}")
        return session.judge(word == "/like", int(rest) if rest else None)
    if rest:
        raise OrderError(f"{word} stands alone, not with {rest!r}")
    if word == "/help":
        wide = max(map(len, HELP))
        return "\n".join(f"{name:{wide}}  {about}" for name, about in HELP.items())
    return getattr(session, word[1:])()

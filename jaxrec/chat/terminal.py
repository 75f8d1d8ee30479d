"""A chat at a terminal: a line is edited by prompt_toolkit, what comes back is written by rich as it is made."""

from collections.abc import Iterable, Iterator

from jaxrec.chat.orders import HELP, Session, follow, is_order
from jaxrec.config import RunError

_ASK = "> "


def converse(session: Session) -> int:
    """Talks until Ctrl-D; how many messages were answered. Ctrl-C stops the answer at hand, not the conversation.

    Raises RunError without the two libraries.
    """
    try:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import Completer, Completion
        from rich.console import Console
        from rich.text import Text
    except ImportError as error:
        raise RunError(
            f"a chat at a terminal needs the extra: pip install 'jaxrec[talk]' ({error}); or pipe the messages in"
        ) from error

    class Commands(Completer):
        """The commands, while a line begins with "/"."""

        def get_completions(self, document, event) -> Iterator[Completion]:
            said = document.text_before_cursor
            if said.startswith("/") and " " not in said:
                for name, about in HELP.items():
                    if name.startswith(said):
                        yield Completion(name, -len(said), display_meta=about)

    console = Console(highlight=False)
    # What strangers write is text: rich would read [brackets] as styles, so it is given as Text.
    tell = lambda piece: console.print(Text(piece), end="", soft_wrap=True)
    lines = PromptSession(completer=Commands(), complete_while_typing=False)
    console.print(Text(session.title, style="bold"))
    _dim(console, Text, [*session.notes, "/help lists the commands; Ctrl-D ends"])
    count = 0
    while True:
        try:
            message = lines.prompt(_ASK)
        except KeyboardInterrupt:
            continue
        except EOFError:
            return count
        if not message.strip():
            continue
        try:
            if is_order(message):
                console.print(Text(follow(session, message)), soft_wrap=True)
                continue
            said = session.say(message, tell)
            count += 1
            console.print()
            _dim(console, Text, _beside(said.told))
        except RunError as error:
            console.print(Text(f"error: {error}", style="red"), soft_wrap=True)
        except KeyboardInterrupt:
            console.print(Text("\n(stopped; the conversation is as it was)", style="dim"))


def _beside(told: dict) -> list[str]:
    """What stands below an answer: where it is from, and what was done to it."""
    lines = []
    sources, used = told.get("sources") or (), told.get("cited") or ()
    if sources:
        chosen = [i for i in used if i < len(sources)] or range(len(sources))
        names = dict.fromkeys(f"[{i + 1}] {sources[i]['place']}" for i in chosen)
        lines.append(("from " if used else "given ") + ", ".join(names))
    if told.get("action") not in (None, "pass", "list"):
        lines.append(f"{told['action']}: {told['reason']}")
    return lines


def _dim(console, text, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(text(line, style="dim"), soft_wrap=True)

"""Floor 3: conversations on disk, each changed by one message at a time, in the order in which they came.

    conversations = Conversations("runs/chats")
    with conversations.turn("c1", owner="U1", start=True) as held:
        held.state, action = hear(talk, held.state, message)
        held.state = said(held.state, answer)

Two messages at once wait for each other, so both are answered and neither's slots are lost; a turn that fails leaves
the state as it was. A folder that is away is an error, never a fresh conversation. Threads of one process wait in a
queue; another process's writing is noticed by the state's revision, and refused.
"""

import contextlib
import dataclasses
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from jaxrec.config import RunError
from jaxrec.dialogue.state import DialogueState, StateError
from jaxrec.files import content_hash, write_atomically

MARK = "conversations.txt"  # stands in a folder of conversations, so that an empty folder is not taken for one


class ConversationsAway(RunError, OSError):
    """The folder of the conversations can't be reached."""


class ChangedMeanwhile(RunError):
    """Another process wrote the conversation in between: the message must be heard again."""


@dataclasses.dataclass
class Held:
    """A conversation during one message; what `state` is at the end is kept."""

    state: DialogueState


class Conversations:
    """The conversations of a folder. Safe to share between threads."""

    def __init__(self, folder: str | Path):
        """Opens the folder, and makes it where there is none. Raises ConversationsAway where that can't be done."""
        self.folder = Path(folder)
        self._guard = threading.Condition()
        self._waiting: dict[str, deque[object]] = {}
        try:
            if not self.folder.exists():
                self.folder.mkdir(parents=True)
                write_atomically(self.folder / MARK, "a conversation a file, by jaxrec.dialogue\n")
        except OSError as error:
            raise ConversationsAway(f"conversations can't be kept in {folder}: {error}") from None
        self._check()

    @contextlib.contextmanager
    def turn(self, conversation: str, owner: str = "", *, start: bool = False) -> Iterator[Held]:
        """One message's turn: waits until those that came earlier are done, and keeps the state at the end.

        conversation: its name. owner: whose it is; somebody else's is refused. start: whether it may be a new one.
        Raises StateError for one that isn't there or is damaged, ConversationsAway, ChangedMeanwhile.
        """
        ticket = object()
        with self._guard:
            line = self._waiting.setdefault(conversation, deque())
            line.append(ticket)
            self._guard.wait_for(lambda: line[0] is ticket)
        try:
            held = Held(self._load(conversation, owner, start))
            before = held.state
            yield held
            if held.state != before:
                self._save(held.state, before, conversation)
        finally:
            with self._guard:
                line.popleft()
                if not line:
                    del self._waiting[conversation]
                self._guard.notify_all()

    def of(self, owner: str) -> list[str]:
        """The names of somebody's conversations."""
        self._check()
        states = (self._read(path) for path in sorted(self.folder.glob("*.json")))
        return [state.conversation for state in states if state.owner == owner]

    def forget(self, owner: str) -> int:
        """Deletes all conversations of somebody; everybody else's stay as they are. Returns how many there were."""
        names = self.of(owner)
        for name in names:
            self._path(name).unlink(missing_ok=True)
        return len(names)

    # ---------------------------------------------------------------------------------- inside

    def _path(self, conversation: str) -> Path:
        # A name may hold anything, so it is no file name.
        return self.folder / f"{content_hash(conversation, digits=40)}.json"

    def _check(self) -> None:
        if not (self.folder / MARK).is_file():
            raise ConversationsAway(
                f"{self.folder} is no folder of conversations, or is away: there is no {MARK}"
            )

    def _load(self, conversation: str, owner: str, start: bool) -> DialogueState:
        self._check()
        path = self._path(conversation)
        if not path.exists():
            if not start:
                raise StateError(f"there is no conversation {conversation[:60]!r}")
            return DialogueState(conversation, owner=owner)
        state = self._read(path)
        if state.owner != owner or state.conversation != conversation:
            raise StateError(f"conversation {conversation[:60]!r} is somebody else's")
        return state

    def _read(self, path: Path) -> DialogueState:
        try:
            return DialogueState.from_json(path.read_bytes())
        except OSError as error:
            raise ConversationsAway(f"{path} can't be read: {error}") from None

    def _save(self, state: DialogueState, before: DialogueState, conversation: str) -> None:
        if (state.conversation, state.owner) != (before.conversation, before.owner):
            raise StateError("a message does not change whose conversation it is")
        self._check()
        path = self._path(conversation)
        on_disk = self._read(path).revision if path.exists() else 0
        if on_disk != before.revision:
            raise ChangedMeanwhile(
                f"conversation {conversation[:60]!r} was changed by another process: hear the message again"
            )
        try:
            write_atomically(path, state.to_json())
        except OSError as error:
            raise ConversationsAway(f"{path} can't be written: {error}") from None

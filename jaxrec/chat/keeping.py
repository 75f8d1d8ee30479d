"""A conversation on disk: FOLDER/state.json, FOLDER/thumbs.jsonl. Whole or not there; what is damaged is said.

Thumbs are rows as a tenant's folder has them ({"question", "answer", "liked"}), so they can be learned from.
"""

import json
from pathlib import Path
from typing import Any

from jaxrec.dialogue.state import DialogueState, StateError
from jaxrec.files import write_atomically

STATE, THUMBS = "state.json", "thumbs.jsonl"


class Kept:
    """Where a conversation is kept; "" keeps nothing.

    folder: its place. name, owner: whose conversation it is; one of somebody else is refused.
    """

    def __init__(self, folder: str, name: str, owner: str = ""):
        self.folder = Path(folder).expanduser() if folder else None
        self.fresh = DialogueState(name, owner=owner)

    def state(self) -> DialogueState:
        """The conversation so far, a fresh one where none was kept.

        Raises StateError where it can't be read, is damaged, or is another one: never is a fresh one put in its place.
        """
        if self.folder is None or not (self.folder / STATE).exists():
            return self.fresh
        try:
            found = DialogueState.from_json((self.folder / STATE).read_bytes())
        except OSError as error:
            raise StateError(f"{self.folder / STATE}: {error.strerror}") from None
        except StateError as error:
            raise StateError(f"{self.folder / STATE}: {error}") from None
        mine = (self.fresh.conversation, self.fresh.owner)
        if (found.conversation, found.owner) != mine:
            raise StateError(
                f"{self.folder} keeps the conversation of {found.owner or 'somebody'} with {found.conversation}, not"
                f" that of {mine[1] or 'somebody'} with {mine[0]}: name another folder with --keep"
            )
        return found

    def put(self, state: DialogueState) -> None:
        """Keeps the conversation."""
        if self.folder is not None:
            write_atomically(self.folder / STATE, state.to_json() + "\n")

    def thumb(self, row: dict[str, Any]) -> str:
        """Keeps a thumb; where, in words."""
        if self.folder is None:
            return "for this conversation alone (--keep FOLDER keeps it)"
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / THUMBS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        return f"in {self.folder / THUMBS}"

    def forget(self) -> list[str]:
        """Removes what was kept; the files that went."""
        if self.folder is None:
            return []
        gone = [path for name in (STATE, THUMBS) if (path := self.folder / name).exists()]
        for path in gone:
            path.unlink()
        return [str(path) for path in gone]

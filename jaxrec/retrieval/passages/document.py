"""Floor 2: a document as a business keeps it, and a passage of it: `document.text[start:end]` is the passage's body."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from jaxrec.data.readers.raw import DataError
from jaxrec.data.readers.text_files import lines
from jaxrec.data.tenant import Page
from jaxrec.retrieval.top_k import SearchError
from jaxrec.words import without_halves

Kind = Literal["markdown", "plain"]
ENDINGS: dict[str, Kind] = {".md": "markdown", ".markdown": "markdown", ".txt": "plain"}


@dataclasses.dataclass(frozen=True)
class Document:
    """A text with a name of its own. Half characters (lone surrogates) become U+FFFD, one for one: offsets stay.

    Raises SearchError for an id that is empty or no text.
    """

    id: str
    text: str
    title: str = ""  # "": that of the first heading of the highest level, where there is one
    kind: Kind = "markdown"

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id.strip():
            raise SearchError(f"a document's id is a text that is not empty, not {self.id!r}")
        if self.kind not in ("markdown", "plain"):
            raise SearchError(f"document {self.id!r} is markdown or plain, not {self.kind!r}")
        for name in ("id", "text", "title"):
            object.__setattr__(self, name, without_halves(getattr(self, name)))


@dataclasses.dataclass(frozen=True)
class Passage:
    """A stretch of a document: its body is text[start:end] of it, its headings lead there from the outermost one."""

    document: str
    number: int  # of the document's passages, from 0
    start: int
    end: int
    text: str
    title: str = ""
    headings: tuple[str, ...] = ()

    @property
    def indexed(self) -> str:
        """What words and vectors are made of: title and headings stand above the body."""
        path = [self.title, *self.headings]
        head = [part for i, part in enumerate(path) if part and part not in path[:i]]
        return "\n\n".join([" > ".join(head), self.text] if head else [self.text])


def documents_of(pages: Iterable[Page]) -> list[Document]:
    """A tenant's pages as documents."""
    return [Document(page.id, page.text, page.title) for page in pages]


def read_documents(folder: str | Path) -> list[Document]:
    """The documents of a folder, a file each (.md, .markdown, .txt), with the paths inside of it as their ids.

    What has another ending is left out, as are files and folders whose names begin with a dot; in an encoding that is
    not UTF-8 a file is read as `data.readers.text_files` says. Raises SearchError without any document, and naming the
    first file that is no text.
    """
    root = Path(folder)
    if not root.is_dir():
        raise SearchError(f"there is no folder {root} of documents")
    paths = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in ENDINGS]
    hidden = lambda path: any(part.startswith(".") for part in path.relative_to(root).parts)
    found = [
        Document(path.relative_to(root).as_posix(), _whole(path), kind=ENDINGS[path.suffix.lower()])
        for path in paths
        if path.is_file() and not hidden(path)
    ]
    if not found:
        raise SearchError(f"{root} holds no documents ({', '.join(ENDINGS)})")
    return found


def _whole(path: Path) -> str:
    try:
        return "".join(line for _, line in lines(path))
    except DataError as error:
        raise SearchError(str(error)) from error

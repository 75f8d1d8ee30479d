"""Floor 0: files that are whole or not there, and hashes of what they hold.

What a reader may meet at any moment is the old content or the new one, never half of it: new content is written beside
its place, forced onto the disk, and renamed. A rename inside one folder either happens or doesn't.
"""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def open_atomically(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """A file to write, "w" (UTF-8) or "wb", that takes the place of `path` when the block ends well.

    A block that fails leaves `path` as it was, and nothing beside it. The folder is made where it is missing.
    Raises OSError where the disk is full or the place cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name is nobody else's: two processes that write one path end with one of the two contents.
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        with fresh.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a crash may leave the new name with no content
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Writes a text (as UTF-8) or bytes, whole or not at all."""
    with open_atomically(path, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: str | Path, content: Any, indent: int | None = 1, **options: Any) -> None:
    """Writes one JSON value with a line end, whole or not at all; `options` are those of `json.dumps`."""
    write_atomically(path, json.dumps(content, indent=indent, **options) + "\n")


def write_json_lines(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a .jsonl file, a row a line and letters as they are, whole or not at all."""
    with open_atomically(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def continue_json_lines(
    path: str | Path, rows: Iterable[Mapping[str, Any]], key: str, start: int
) -> None:
    """Adds rows to a .jsonl file in place of those whose `key` is `start` or more: what a killed run wrote already.

    path: the file; made where it is missing.
    """
    kept = [row for row in read_json_lines(path) if row[key] < start]
    write_json_lines(path, [*kept, *rows])


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file; none where there is no file."""
    path = Path(path)
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:  # not `splitlines`, which breaks at U+2028 too
        return [json.loads(line) for line in file]


@contextlib.contextmanager
def replace_folder(folder: str | Path) -> Iterator[Path]:
    """A fresh folder that takes the place of `folder` when the block ends well, and is deleted otherwise.

    An older folder steps aside first (FOLDER.old) and goes last, so one of the two is whole at any moment, and
    `whole_folder` finds it. Maps of the older files stay valid.
    """
    folder = Path(folder).absolute()
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        put_in_place(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def put_in_place(fresh: Path, folder: Path) -> None:
    """Renames `fresh` to `folder`, as `replace_folder` does at its end."""
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def replace_files(folder: str | Path, older: Callable[[Path], bool], mark: str) -> Iterator[Path]:
    """A fresh folder whose files take the place of those in `folder` when the block ends well; others there stay.

    older: whether this file or folder is of what is replaced, and goes though no new one has its name. mark: the file
    by which a reader knows that all is there: it goes first and comes last, so old and new are never read as one.
    A block that fails leaves the folder as it was.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".{uuid.uuid4().hex[:8]}.new"
    fresh.mkdir()
    try:
        yield fresh
        (folder / mark).unlink(missing_ok=True)
        for path in folder.iterdir():
            if path != fresh and older(path):
                _remove(path)
        for path in sorted(fresh.iterdir(), key=lambda path: path.name == mark):
            place = folder / path.name
            _remove(place)
            path.rename(place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def whole_folder(folder: str | Path, mark: str) -> Path | None:
    """The folder that holds a file `mark`: `folder`, or the older one that a kill between two renames left behind."""
    folder = Path(folder).absolute()
    both = (folder, folder.with_name(folder.name + ".old"))
    return next((path for path in both if (path / mark).is_file()), None)


def content_hash(*parts: Any, digits: int = 64) -> str:
    """The SHA-256 of texts (as UTF-8), bytes and arrays (their bytes in C order), one after the other, in hexadecimal.

    Nothing stands between the parts: where they may meet differently, give their lengths or shapes too.
    digits: how many of the 64 to give.
    """
    whole = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            part = part.encode("utf-8", "surrogatepass")
        whole.update(part if isinstance(part, bytes) else part.tobytes())
    return whole.hexdigest()[:digits]


def file_hash(path: str | Path, kind: str = "sha256") -> str:
    """The hash of a file's bytes in hexadecimal; `kind` as `hashlib` names it."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()

"""Floor 2: a folder whose head names size and SHA-256 of every other file: what is damaged is refused by name."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxrec import files
from jaxrec.retrieval.top_k import SearchError


@contextlib.contextmanager
def replacing(folder: Path, head: str) -> Iterator[Path]:
    """A fresh folder that takes the place of `folder` when the block ends well, and is deleted otherwise.

    An older index there steps aside first and goes last, so one of the two is whole at any moment. Maps of its files
    stay valid. head: the file by which an index is known; a folder that holds something else is refused.
    """
    known = (folder / head).is_file()
    if folder.exists() and not known and (folder.is_file() or any(folder.iterdir())):
        raise SearchError(f"{folder} is there already and is no index; name another folder")
    with files.replace_folder(folder) as fresh:
        yield fresh


def marks_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file in a folder, by name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _mark(path) for path in paths}


def read_head(folder: Path, head: str, version: int, verify: bool = True) -> dict[str, Any]:
    """The head of a folder, its files checked.

    folder: which `files.whole_folder` found. head: the file's name. version: the one that can be read. verify: by
    SHA-256 too, not by size alone. Raises SearchError.
    """
    try:
        said = json.loads((folder / head).read_text(encoding="utf-8"))
        found, marks = said["version"], said["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise SearchError(f"{folder / head} is damaged ({error}); build the index again") from error
    if found != version:
        raise SearchError(
            f"{folder} was written by version {found} of the index, this is {version}; build it again"
        )
    if not isinstance(marks, Mapping):
        raise SearchError(f"{folder / head} is damaged (no list of files); build the index again")
    for name, mark in marks.items():
        check(folder / name, mark, verify)
    return said


def check(path: Path, mark: Any, verify: bool = True) -> None:
    """Raises SearchError where a file is not the one that `marks_of` saw."""
    if not path.is_file():
        raise SearchError(f"{path} is missing; build the index again")
    size = path.stat().st_size
    if size != mark["bytes"]:
        raise SearchError(
            f"{path} has {size} bytes instead of {mark['bytes']}; build the index again"
        )
    if verify and files.file_hash(path) != mark["sha256"]:
        raise SearchError(f"{path} is damaged (its SHA-256 differs); build the index again")


def _mark(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": files.file_hash(path)}

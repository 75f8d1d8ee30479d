"""Floor 3: a person or a tenant is forgotten: everything named after them in some folders, and nothing else.

    report = forget(Who(user="maria"), ["runs"])

    runs/chats/maria.jsonl                      a file or folder on a shelf of people, by its name       goes whole
    runs/indexes/7f/index.json {"tenant": ...}  a folder whose head says whose it is                    goes whole
    runs/events.jsonl, .csv, .parquet, .sqlite  rows with a field `user`, `tenant`, ...                  go (`traces`)
    runs/personalize/profile                    rows of p and of Deltas                                  go (`banks`)
    runs/features/KEY, shops                    caches made of several people, theirs among them         go whole

A cache is found by a hash of everything it was made of, so one with their rows in it would never be read again. Weights
that were trained with them stay, and so do words about them in other people's texts; both are said. Nothing depends on
the order of files: stopped anywhere and run again, it goes on.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import json
import mmap
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxrec.privacy import banks
from jaxrec.privacy.spans import PrivacyError
from jaxrec.privacy.traces import is_theirs, take_out
from jaxrec.privacy.whose import HEADS, Who

PEOPLE = "people.json"  # of a cache: whose rows it was made of
_WORKING = "checkpoints"  # of a run, beside its profile/ or model/
_GOING = ".forgotten-"  # a folder that is being removed
_STOPPED = re.compile(r"^\..+\.[0-9a-f]{8}\.new$")  # what a killed write left (jaxrec.files)


@dataclasses.dataclass(frozen=True)
class Removed:
    """What went from where."""

    place: Path
    what: str
    count: int = 1


@dataclasses.dataclass(frozen=True)
class Forgotten:
    """All that went; where the name still stands, and how often; files in which people can't be told apart."""

    who: Who
    removed: tuple[Removed, ...]
    still: tuple[tuple[Path, int], ...]
    searched: int
    resumed: bool = False


def forget(who: Who, folders: Sequence[str | Path], look: bool = False) -> Forgotten:
    """Removes everything that is named after somebody in these folders.

    who: a tenant, a user, or a user of a tenant. folders: with all in them. look: say what would go, change nothing.

    Raises PrivacyError for a folder that isn't there, and for somebody of whom there is nothing.
    """
    roots = [Path(folder).expanduser().absolute() for folder in folders]
    if not roots:
        raise PrivacyError("say which folders are searched")
    for root in roots:
        if not root.is_dir():
            raise PrivacyError(f"there is no folder {root} to search")
    # Says to the next run that this one was stopped: of somebody half forgotten there may be nothing left to find.
    mark = roots[0] / f".forgetting-{hashlib.sha256(repr(who).encode()).hexdigest()[:16]}"
    resumed = mark.exists()
    if not look:
        mark.touch()
    removed = [found for root in roots for found in _search(root, who, look, resumed)]
    if not removed and not resumed:
        mark.unlink(missing_ok=True)
        count = sum(1 for root in roots for _ in _files(root))
        raise PrivacyError(
            f"nothing is kept of {who} in {', '.join(map(str, folders))}: {count:,} files were searched"
        )
    still, searched = _mentions(roots, who, mark)
    mark.unlink(missing_ok=True)
    return Forgotten(who, tuple(removed), tuple(still), searched, resumed)


def _search(root: Path, who: Who, look: bool, resumed: bool) -> Iterator[Removed]:
    named = who.mentions()
    if not who.user and who.tenant in banks.names_in(root):
        yield from _row_of_bank(root, who.tenant, [], look)
        return
    for folder, inner, names in os.walk(root):
        here = Path(folder)
        for name in sorted(inner):
            path = here / name
            if name not in inner:
                continue  # went with what stands beside it
            if name.startswith(_GOING):
                inner.remove(name)  # of a run that was stopped
                yield _gone(path, "what an earlier run was removing", look)
            elif path.is_symlink():
                inner.remove(name)
                if who.has_path(path, root):
                    yield _gone(path, "link", look)
            elif why := _is_theirs(path, root, who):
                inner.remove(name)
                yield _gone(path, why, look)
            elif not who.user and who.tenant in banks.names_in(path):
                inner.remove(name)
                yield from _row_of_bank(path, who.tenant, inner, look)
        for name in sorted(names):
            path = here / name
            if path.is_symlink():
                if who.has_path(path, root):
                    yield _gone(path, "link", look)
            elif who.has_path(path, root):
                yield _gone(path, "file", look)
            elif _STOPPED.match(name) and (resumed or _says(path, named)):
                yield _gone(path, "what a stopped write left", look)
            elif is_theirs(path, who, who.within(here, root)):
                yield _gone(path, "file", look)
            elif count := take_out(path, who, who.within(here, root), look):
                yield Removed(path, "row" + "s" * (count != 1), count)


def _is_theirs(folder: Path, root: Path, who: Who) -> str:
    """Why a folder goes whole; "" where it stays."""
    if who.has_path(folder, root):
        return "folder"
    for head in HEADS:
        told = _read(folder / head)
        if isinstance(told, dict) and who.has_row(told, who.within(folder.parent, root)):
            return f"folder that is theirs by its {head}"
    told = _read(folder / PEOPLE)
    if isinstance(told, dict) and who.name in map(
        str, told.get("users" if who.user else "tenants", ())
    ):
        return "kept features, made anew where they are needed"
    if who.user and not who.tenant and (folder / "flow.json").is_file():
        shop = _read(folder / "shop.json")
        if isinstance(shop, dict) and who.user in map(str, shop.get("users", ())):
            return "shop fitted with their events, fitted anew at the next question"
    return ""


def _row_of_bank(path: Path, name: str, beside: list[str], look: bool) -> Iterator[Removed]:
    alone = banks.names_in(path) == [name]
    if alone:
        yield _gone(path, "p and Delta, of nobody else", look)
    elif look:
        yield Removed(path, "row of p and Delta")
    else:
        yield Removed(path, f"row of {banks.take_row(path, name)}")
    # What training would go on from holds their row too, and is refused with other people's data than it began with.
    if _WORKING in beside:
        beside.remove(_WORKING)
        yield _gone(path.parent / _WORKING, "state of a training with them in it", look)


def _gone(path: Path, what: str, look: bool) -> Removed:
    if look:
        return Removed(path, what)
    if path.is_dir() and not path.is_symlink():
        # Renamed first: half a folder, its head gone, would not be known for theirs by the next run.
        going = path
        if not path.name.startswith(_GOING):
            going = path.with_name(f"{_GOING}{uuid.uuid4().hex[:8]}")
            path.rename(going)
        shutil.rmtree(going)
    else:
        path.unlink(missing_ok=True)
    return Removed(path, what)


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _files(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        yield from (Path(folder) / name for name in names)


def _says(path: Path, named: re.Pattern[bytes]) -> int:
    """How often a file's bytes have the name."""
    with contextlib.suppress(OSError, EOFError, ValueError):
        with path.open("rb") as file:
            if file.read(2) == b"\x1f\x8b":
                file.seek(0)
                return len(named.findall(gzip.GzipFile(fileobj=file).read()))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
                return sum(1 for _ in named.finditer(held))
    return 0


def _mentions(roots: Sequence[Path], who: Who, mark: Path) -> tuple[list[tuple[Path, int]], int]:
    named, still, searched = who.mentions(), [], 0
    for root in roots:
        for path in _files(root):
            if path == mark or path.is_symlink():
                continue
            searched += 1
            if count := _says(path, named):
                still.append((path, count))
    return still, searched

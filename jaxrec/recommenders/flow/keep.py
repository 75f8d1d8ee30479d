"""Floor 4: a shop's files to a flow that answers: fitted once, kept, fitted again when files or settings change.

    flow = open_shop("my.csv", "titles.csv")
    for one in flow.recommend("U1", query="coffee for a friend"):
        print(one.title, one.why)

A fit that was stopped goes on: what was embedded and trained lies in the folder's `work` until the flow is whole.
"""

import contextlib
import dataclasses
import fcntl
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxrec import config as configs
from jaxrec.files import content_hash, file_hash
from jaxrec.recommenders.flow import folder as folders
from jaxrec.recommenders.flow.fitting import FlowConfig
from jaxrec.recommenders.flow.flow import Flow
from jaxrec.recommenders.flow.pipeline import FlowError

CACHE = "~/.cache/jaxrec/shops"
_LOCK = "lock"

Say = Callable[[str], None]


def open_shop(
    events: str | Path,
    items: str | Path | None = None,
    *,
    keep: str | Path | None = None,
    refit: bool = False,
    config: FlowConfig | None = None,
    columns: dict[str, str] | None = None,
    progress: bool = True,
    say: Say | None = None,
) -> Flow:
    """The flow of a shop: loaded where it was kept for these very files and settings, else fitted and kept.

    Args:
      events: a file or folder of who took what, in any layout that `data.interaction_sets.read` knows.
      items: a file of titles (categories, brands) by item id; None: what `events` itself tells of its items.
      keep: the folder in which the fitted flow lies; None: one in ~/.cache/jaxrec/shops, by the files' paths.
      refit: fit even where a flow is kept.
      config: how it is fitted; None: the defaults.
      columns: names of columns by meaning (user, item, rating, time, title, ...), where looking does not tell them.
      progress: bars on stderr.
      say: is told in a line each what is done and why; None: stderr, where there is progress, else nobody.

    Raises DataError for files that can't be read, FlowError where `keep` holds something else, NothingToLearn.
    """
    say, config = say or (say_on_stderr if progress else _silent), config or FlowConfig()
    files = [Path(path).expanduser().absolute() for path in (events, items) if path is not None]
    columns = {name: column for name, column in (columns or {}).items() if column}
    folder = _folder(files, keep)
    made_from = _made_from(files, config, columns)
    with _alone(folder, say):
        return _opened(files, folder, refit, config, columns, made_from, progress, say)


# ------------------------------------------------------------------------------------------ inside


def _opened(
    files: list[Path],
    folder: Path,
    refit: bool,
    config: FlowConfig,
    columns: dict[str, str],
    made_from: dict[str, str],
    progress: bool,
    say: Say,
) -> Flow:
    old = _kept(folder)
    if old is not None and not refit:
        changed = [name for name, mark in made_from.items() if old.get(name) != mark]
        if not changed:
            try:
                return Flow.load(folder / "flow")
            except FlowError as error:
                say(f"fitted again: {error}")
        else:
            say(f"fitted again: {', '.join(changed)} changed since the last fit")
    flow = _fitted(files, folder, config, columns, made_from, progress, say)
    say(f"kept in {folder} ({_size(folder)}): the next call takes it from there")
    return flow


@contextlib.contextmanager
def _alone(folder: Path, say: Say) -> Iterator[None]:
    """Only one process opens a kept shop at a time: a second one waits while the first fits, and finds what it kept."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / _LOCK).open("w")
    except OSError as error:
        if (folder / "flow").is_dir():  # kept on what can only be read
            yield
            return
        raise FlowError(
            f"nothing can be kept in {folder}: {error.strerror}; name another by keep"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say(f"another process works in {folder}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fitted(
    files: list[Path],
    folder: Path,
    config: FlowConfig,
    columns: dict[str, str],
    made_from: dict[str, str],
    progress: bool,
    say: Say,
) -> Flow:
    from jaxrec.data.interaction_sets import read

    data = read(_data_config(files, columns))
    for line in data.summary().splitlines():
        say(line)
    work = folder / "work" / _digest(made_from)[:16]
    for other in work.parent.glob("*"):
        if other != work:
            shutil.rmtree(other, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    flow = Flow.fit(data, config, work=work, progress=progress)
    for note in flow.notes:
        say(f"note: {note}")
    if "hit_10" in flow.facts:
        told = flow.facts
        say(
            f"checked on {told['held_out_people']} people: what they took last, hidden, is among our ten in "
            f"{told['hit_10']:.0%} of cases (among the ten most popular in {told['popular_hit_10']:.0%})"
        )
    flow.facts["made_from"] = made_from
    flow.save(folder / "flow")
    shutil.rmtree(folder / "work", ignore_errors=True)
    return flow


def _data_config(files: list[Path], columns: dict[str, str]) -> Any:
    from jaxrec.data.interaction_sets import DataConfig

    known = {field.name for field in dataclasses.fields(DataConfig)}
    if unknown := sorted(set(columns) - known):
        raise FlowError(f"no column can be named for {unknown[0]!r}")
    own: dict[str, Any] = {"path": files[0], **columns}
    if len(files) > 1:
        own |= {"items": files[1], "whole_catalogue": True}
    return DataConfig(**own)


def _folder(files: list[Path], keep: str | Path | None) -> Path:
    """Where the flow lies. Raises FlowError for a folder that is somebody else's."""
    if keep is None:
        return Path(CACHE).expanduser() / _digest([str(path) for path in files])[:16]
    folder = Path(keep).expanduser().absolute()
    ours = {_LOCK, "flow", "work", "flow.new", "flow.old"}
    if folder.is_file() or (folder.is_dir() and {path.name for path in folder.iterdir()} - ours):
        raise FlowError(
            f"{folder} holds something else: name an empty or a new folder to keep the shop in"
        )
    return folder


def _kept(folder: Path) -> dict[str, str] | None:
    """What the kept flow was made from; None where there is none that can be read."""
    try:
        return folders.read_facts(folder / "flow")["facts"].get("made_from", {})
    except FlowError:
        return None


def _made_from(files: list[Path], config: FlowConfig, columns: dict[str, str]) -> dict[str, str]:
    """What a flow depends on, by name. Raises FlowError for a file that is not there."""
    found = {}
    for path in files:
        if not path.exists():
            raise FlowError(f"there is no file {path}")
        found[path.name] = _content(path)
    if len(files) == 1:
        found["the titles file"] = ""
    settings = configs.to_dict(config)
    del settings["cluster"]  # where titles are embedded changes nothing that is kept
    found["the settings"] = _digest(settings)
    found["the columns"] = _digest(columns)
    found["jaxrec's version"] = str(folders.VERSION)
    return found


def _content(path: Path) -> str:
    """The hash of a file's bytes, or of all files of a folder."""
    parts = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    try:
        marks = [f"{part.relative_to(path)} {file_hash(part)}" for part in parts]
    except OSError as error:
        raise FlowError(f"{error.filename or path}: {error.strerror}") from None
    return content_hash("\n".join(marks), digits=32)


def _digest(what: Any) -> str:
    return content_hash(repr(what))


def _size(folder: Path) -> str:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{size / 1e6:.1f} MB"


def _silent(line: str) -> None:
    """Nobody is told."""


def say_on_stderr(line: str) -> None:
    """A line for whoever watches, never mixed with the answer."""
    print(line, file=sys.stderr, flush=True)

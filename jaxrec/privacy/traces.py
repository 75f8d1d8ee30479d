"""Floor 3: somebody's part of a file is taken out, and everything else in it stays what it was.

Lines of .jsonl, .csv and .tsv (plain or .gz) stay byte for byte; rows of Parquet and SQLite, and arrays of .npz that
have a row a person, stay value for value. Each file is replaced whole, or stays as it was.
"""

import contextlib
import csv
import gzip
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from jaxrec import files
from jaxrec.privacy.whose import TENANT_FIELDS, TENANT_SHELVES, USER_FIELDS, USER_SHELVES, Who

Take = Callable[[Path, Who, bool, bool], int]


def is_theirs(path: Path, who: Who, within: bool) -> bool:
    """Whether a .json file is one object, and theirs by a field of it. within: as of `take_out`."""
    if path.suffix != ".json":
        return False
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(value, dict) and who.has_row(value, within)


def take_out(path: Path, who: Who, within: bool, look: bool) -> int:
    """Takes out somebody's rows; gives how many there were. 0 for files in which nobody can be told apart.

    path: the file. who: they. within: whether it lies in their tenant's folder. look: count alone, change nothing.
    """
    kind = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    take = _BY_SUFFIX.get(kind.removesuffix(".gz"))
    if take is None and _is_sqlite(path):
        take = _sqlite
    return take(path, who, within, look) if take else 0


def _lines(path: Path, who: Who, within: bool, look: bool) -> int:
    def theirs(line: bytes) -> bool:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return False  # a damaged line is nobody's; that it has the name is said at the end
        return isinstance(row, dict) and who.has_row(row, within)

    return _rewritten(path, lambda lines: ((line, theirs(line)) for line in lines), look)


def _table(path: Path, who: Who, within: bool, look: bool) -> int:
    delimiter = "\t" if ".tsv" in path.suffixes else ","

    def told(lines: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
        # The raw lines of each record are kept beside what the reader makes of them: quotes may span lines.
        raw: list[bytes] = []

        def seen() -> Iterator[str]:
            for line in lines:
                raw.append(line)
                yield line.decode("utf-8", "replace")

        head: list[str] | None = None
        for record in csv.reader(seen(), delimiter=delimiter):
            whole = b"".join(raw)
            raw.clear()
            if head is None:
                head = [name.strip().lstrip("\ufeff") for name in record]
                yield whole, False
            else:
                yield whole, who.has_row(dict(zip(head, record, strict=False)), within)

    return _rewritten(path, told, look)


def _rewritten(
    path: Path, told: Callable[[Iterable[bytes]], Iterator[tuple[bytes, bool]]], look: bool
) -> int:
    """Replaces the file by its pieces that are not theirs. told: lines -> (piece, whether it is theirs)."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as file:
        count = sum(theirs for _, theirs in told(file))
    if count and not look:
        with (
            opened(path, "rb") as file,
            files.open_atomically(path, "wb") as fresh,
            contextlib.ExitStack() as stack,
        ):
            out: Any = fresh
            if path.suffix == ".gz":
                out = stack.enter_context(
                    gzip.GzipFile(fileobj=fresh, mode="wb", filename="", mtime=0)
                )
            for piece, theirs in told(file):
                if not theirs:
                    out.write(piece)
    return count


def _json(path: Path, who: Who, within: bool, look: bool) -> int:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            text = file.read()
        value = json.loads(text)
    except (ValueError, RecursionError):
        return 0
    kept, count = _pruned(value, who, within, path.name.split(".")[0])
    if count and not look:
        indent = 1 if "\n " in text else None
        said = json.dumps(kept, indent=indent, ensure_ascii=text.isascii()) + "\n" * text.endswith(
            "\n"
        )
        files.write_atomically(
            path, gzip.compress(said.encode(), mtime=0) if path.suffix == ".gz" else said
        )
    return count


def _pruned(value: Any, who: Who, within: bool, shelf: str) -> tuple[Any, int]:
    """A JSON value without their objects, and without their key where people are keys. shelf: the key above it."""
    count = 0
    if isinstance(value, dict):
        kept: dict[str, Any] | list[Any] = {}
        for key, inner in value.items():
            if who.has_key(key, shelf, within) or (
                isinstance(inner, dict) and who.has_row(inner, within)
            ):
                count += 1
                continue
            kept[key], more = _pruned(inner, who, within, key)
            count += more
        return kept, count
    if isinstance(value, list):
        kept = []
        for inner in value:
            if isinstance(inner, dict) and who.has_row(inner, within):
                count += 1
                continue
            inner, more = _pruned(inner, who, within, shelf)
            kept.append(inner)
            count += more
        return kept, count
    return value, 0


def _fields(who: Who) -> frozenset[str]:
    return USER_FIELDS if who.user else TENANT_FIELDS


def _parquet(path: Path, who: Who, within: bool, look: bool) -> int:
    import pyarrow
    from pyarrow import parquet

    try:
        names = parquet.read_schema(path).names
    except pyarrow.ArrowInvalid:
        return 0
    asked = [name for name in names if name in USER_FIELDS | TENANT_FIELDS]
    if not _fields(who) & set(asked):
        return 0
    rows = parquet.read_table(path, columns=asked).to_pylist()
    stays = [not who.has_row(row, within) for row in rows]
    count = len(stays) - sum(stays)
    if count and not look:
        table = parquet.read_table(path).filter(pyarrow.array(stays))
        with files.open_atomically(path, "wb") as file:
            parquet.write_table(table, file)
    return count


def _npz(path: Path, who: Who, within: bool, look: bool) -> int:
    import numpy as np

    try:
        with np.load(path) as held:
            arrays = {name: held[name] for name in held.files}
    except (ValueError, OSError):  # objects, or no archive
        return 0
    shelves = USER_FIELDS | USER_SHELVES if who.user else TENANT_FIELDS | TENANT_SHELVES
    named = [
        x for name, x in arrays.items() if name in shelves and x.ndim == 1 and x.dtype.kind in "US"
    ]
    if not named or (who.tenant and who.user and not within):
        return 0
    stays = np.array([str(name) != who.name for name in named[0].astype(str)])
    count = int((~stays).sum())
    if count and not look:
        left = {
            name: x[stays] if x.ndim and len(x) == len(stays) else x for name, x in arrays.items()
        }
        with files.open_atomically(path, "wb") as file:
            np.savez(file, **left)
    return count


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(16) == b"SQLite format 3\0"
    except OSError:
        return False


def _sqlite(path: Path, who: Who, within: bool, look: bool) -> int:
    quoted = lambda name: '"' + name.replace('"', '""') + '"'
    count = 0
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        # Deleted rows would otherwise stay readable in the file until their pages are used again.
        db.execute("PRAGMA secure_delete = ON")
        tables = db.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        )
        for (table,) in tables.fetchall():
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({quoted(table)})")]
            scoped = [c for c in columns if c in TENANT_FIELDS] if who.tenant and who.user else []
            if who.tenant and who.user and not scoped and not within:
                continue
            for column in (c for c in columns if c in _fields(who)):
                where = " AND ".join(
                    f"CAST({quoted(c)} AS TEXT) = ?" for c in (column, *scoped[:1])
                )
                asked = (who.name, who.tenant)[: 1 + len(scoped[:1])]
                found = db.execute(f"SELECT count(*) FROM {quoted(table)} WHERE {where}", asked)
                count += (found := found.fetchone()[0])
                if found and not look:
                    db.execute(f"DELETE FROM {quoted(table)} WHERE {where}", asked)
    if count and not look:
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("VACUUM")
    return count


_BY_SUFFIX: dict[str, Take] = {
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".json": _json,
    ".csv": _table,
    ".tsv": _table,
    ".parquet": _parquet,
    ".npz": _npz,
}

"""A tenant's folder, as people keep it; every file may be missing, one suffices.

    my_shop/                the folder's name is the tenant's key
      guide.md | guide.txt  how it wants to sound, in prose or in points
      pages/*.md | *.txt    its knowledge base, a page a file; or pages.jsonl: {"title", "text"}
      dialogues.jsonl       conversations to learn from, rows as in `jaxrec.data.tenant_rows`; five are enough
      heldout.jsonl         others, to measure on
      preferences.jsonl     {"prompt", "chosen", "rejected"}
      thumbs.jsonl          {"question", "answer", "liked"}
      never.txt             words that it never says, one a line
      tenant.json           {"name": "My Shop"}, and whatever a line of a file of tenants may hold

A .jsonl may be packed (.jsonl.gz), or be a .json that holds a list. The reading is lenient: a byte order mark, blank
lines, foreign line ends and further fields do no harm; what cannot be read is left out, counted by reason and place.
"""

import codecs
import dataclasses
import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from jaxrec.data.instructions import InstructionError, Skipped, json_lines
from jaxrec.data.tenant import Page, Tenant
from jaxrec.data.tenant_rows import (
    check_text,
    dialogue_of,
    page_of,
    preference_of,
    reason,
    thumb_row_of,
)

R = TypeVar("R")
# The parts that are lists of rows: (their names in a row and as a file, what reads one, the field of `Tenant`).
PARTS: tuple[tuple[tuple[str, ...], Callable[[Any, str], Any], str], ...] = (
    (("dialogues", "onboarding"), dialogue_of, "onboarding"),
    (("heldout",), dialogue_of, "heldout"),
    (("preferences",), preference_of, "preferences"),
    (("thumbs", "feedback"), thumb_row_of, "thumbs"),
    (("pages",), page_of, "pages"),
)
ROWS = (".jsonl", ".jsonl.gz", ".json")
PROSE = (".md", ".txt", ".markdown")
NAMES = {name for names, _, _ in PARTS for name in names}
KNOWN = (
    "guide.md", "guide.txt", "pages/", "never.txt", "tenant.json",
    *(f"{names[0]}.jsonl" for names, _, _ in PARTS),
)  # fmt: skip
ROW_ERRORS = (KeyError, TypeError, ValueError, RecursionError)


def is_tenant(folder: Path) -> bool:
    """Whether a folder holds anything of the layout."""
    return any(_part(path) for path in _visible(folder))


def read_folder(folder: Path, skipped: Skipped) -> Tenant | None:
    """The tenant of a folder, or None when nothing in it can be read; what is left out goes into `skipped`."""
    row: dict[str, Any] = {}
    told: dict[str, Any] = {}  # by tenant.json
    for path in _visible(folder):
        part, where = _part(path), f"{folder.name}/{path.name}"
        if not (path.is_file() or path.is_dir()):
            skipped.add("neither a file nor a folder", where)
        elif part is None:
            _not_read(path, where, skipped)
        elif part == "pages/":
            row.setdefault("pages", []).extend(_pages(path, where, skipped))
        elif part == "tenant.json":
            found = _value(path, where, skipped)
            if isinstance(found, Mapping):
                told = dict(found)
            elif found is not None:
                skipped.add("tenant.json holds no JSON object", where)
        elif part in ("guide", "never"):
            if said := _prose(path, where, skipped):
                row[part] = f"{row[part]}\n{said}" if part in row else said
        else:
            row.setdefault(part, []).extend(rows_of(path, folder.name, skipped))
    for part in NAMES & told.keys():  # rows add up; of a guide or a name the file's goes first
        row[part] = [
            *row.get(part, ()),
            *_listed(told[part], part, f"{folder.name}/tenant.json", skipped),
        ]
    row = told | row
    return tenant_of(row, folder.name, folder.name, skipped) if row else None


def tenant_of(row: Mapping[str, Any], key: str, where: str, skipped: Skipped) -> Tenant | None:
    """A tenant from one object with the layout's parts as fields, or None when nothing in it can be read.

    row: "key", "name", "guide", "never" and the lists of `PARTS`, whose rows may be (place, row) pairs. key: where the
    row has none. where: its place, for `skipped`.
    """
    try:
        # the rows of its parts are checked one by one
        check_text({"key": key, **{k: v for k, v in row.items() if k not in NAMES}})
        name = _text(row, "name")
        key = (_text(row, "key") or key or name).strip()
        guide = _guide(row.get("guide", ""))
        words = _words(row.get("never", ()))
    except (TypeError, ValueError) as error:
        skipped.add(f"a tenant that cannot be read: {reason(error)}", where)
        return None
    parts: dict[str, tuple] = {}
    for names, parse, field in PARTS:
        given = [pair for name in names for pair in _listed(row.get(name), name, where, skipped)]
        one = field.rstrip("s")
        parts[field] = _parsed(given, parse, f"{key}-{one}", skipped)
    learned = {dialogue.turns for dialogue in parts["onboarding"]}
    for both in (dialogue for dialogue in parts["heldout"] if dialogue.turns in learned):
        skipped.add("held-out dialogue that is learned from, too: not measured on", both.id)
    parts["heldout"] = tuple(d for d in parts["heldout"] if d.turns not in learned)
    if not key:
        skipped.add("a tenant without a key or a name", where)
        return None
    if not (guide or words or any(parts.values())):
        skipped.add("a tenant of whom nothing can be read", where)
        return None
    return Tenant(key, name, guide, never=words, **parts)


def rows_of(path: Path, folder: str, skipped: Skipped) -> Iterator[tuple[str, Any]]:
    """("FOLDER/FILE:LINE", JSON value or the error that it is) of a file of rows; a file that is none is counted."""
    where = f"{folder}/{path.name}".lstrip("/")
    if path.is_dir():
        skipped.add("a folder with a file's name", where)
        return
    try:
        yield from ((f"{folder}/{at}".lstrip("/"), row) for at, row in json_lines(path))
    except InstructionError as error:
        skipped.add(f"a file that cannot be read ({error})", where)


# ------------------------------------------------------------------------------------------ inside


def _visible(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith((".", "__", "~")))


def _part(path: Path) -> str | None:
    """Which part of the layout a path is: a name of `NAMES`, "guide", "never", "pages/", "tenant.json" or None."""
    name = path.name.casefold()
    stem = name.partition(".")[0]
    if name == "pages" and path.is_dir():
        return "pages/"
    if name == "tenant.json":
        return name
    if stem in ("guide", "never") and name.endswith(PROSE) and name.count(".") == 1:
        return stem
    return stem if stem in NAMES and name in {f"{stem}{end}" for end in ROWS} else None


def _not_read(path: Path, where: str, skipped: Skipped) -> None:
    """Counts what is no part of the layout, with the name that was probably meant."""
    close = difflib.get_close_matches(path.name.casefold(), KNOWN, n=1, cutoff=0.75)
    if close:
        skipped.add(f"not read; did you mean {close[0]}?", where)
    elif path.name.casefold().endswith((*ROWS, *PROSE)) and "readme" not in path.name.casefold():
        skipped.add("no part of a tenant's folder", where)


def _prose(path: Path, where: str, skipped: Skipped) -> str:
    if path.is_dir():
        skipped.add("a folder with a file's name", where)
        return ""
    try:
        raw = path.read_bytes()
    except OSError as error:
        skipped.add(f"a file that cannot be read ({error.strerror})", where)
        return ""
    utf16 = raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    try:
        said = raw.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        skipped.add("a text that is no UTF-8: save it as UTF-8", where)
        return ""
    said = "\n".join(said.replace("\x00", "").splitlines()).strip()
    if not said:
        skipped.add("an empty text", where)
    return said


def _pages(folder: Path, where: str, skipped: Skipped) -> Iterator[tuple[str, Any]]:
    for path in sorted(folder.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts) or path.is_dir():
            continue
        name = path.relative_to(folder).as_posix()
        if not name.casefold().endswith(PROSE):
            skipped.add("a page that is neither .md nor .txt", f"{where}/{name}")
        elif said := _prose(path, f"{where}/{name}", skipped):
            title = next(
                (line.lstrip("# ") for line in said.splitlines() if line.startswith("#")), ""
            )
            yield (
                f"{where}/{name}",
                {"id": name.rpartition(".")[0], "title": title, "text": said},
            )


def _value(path: Path, where: str, skipped: Skipped) -> Any:
    said = _prose(path, where, skipped)
    try:
        return json.loads(said) if said else None
    except (ValueError, RecursionError) as error:
        skipped.add(f"no JSON ({getattr(error, 'msg', 'too deep')})", where)
        return None


def _listed(value: Any, name: str, where: str, skipped: Skipped) -> Iterator[tuple[str, Any]]:
    """(place, row) of a part as it stands in an object: a list of rows, of (place, row) pairs, or nothing."""
    if value is None:
        return
    if not isinstance(value, list | tuple):
        skipped.add(f"{name}: a list is expected", where)
        return
    for i, row in enumerate(value):
        yield row if isinstance(row, tuple) else (f"{where} {name}[{i}]", row)


def _parsed(
    given: list[tuple[str, Any]], parse: Callable[[Any, str], R], name: str, skipped: Skipped
) -> tuple[R, ...]:
    """The rows that can be read; one that says the same as an earlier one is left out, too."""
    found: dict[Any, R] = {}
    for number, (where, row) in enumerate(given):
        try:
            one = parse(row, f"{name}-{number:02d}")
        except ROW_ERRORS as error:
            skipped.add(reason(error), where)
            continue
        blank = {"id": "", "title": ""} if isinstance(one, Page) else {"id": ""}
        said = dataclasses.replace(one, **blank)
        if said in found:
            skipped.add("says the same as an earlier row", where)
        else:
            found[said] = one
    return tuple(found.values())


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name) or ""
    if not isinstance(value, str | int):
        raise TypeError(f"{name}: a text is expected, not {type(value).__name__}")
    return str(value).strip()


def _words(value: Any) -> tuple[str, ...]:
    lines = value.splitlines() if isinstance(value, str) else value
    if not isinstance(lines, list | tuple) or not all(isinstance(line, str) for line in lines):
        raise TypeError("never: a text or a list of words is expected")
    words = (line.strip() for line in lines)
    return tuple(dict.fromkeys(word for word in words if word and not word.startswith("#")))


def _guide(value: Any) -> str:
    lines = value if isinstance(value, list) else [value or ""]
    if not all(isinstance(line, str) for line in lines):
        raise TypeError("guide: a text or a list of texts is expected")
    return "\n".join(lines).strip()

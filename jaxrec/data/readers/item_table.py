"""What a shop tells of its items in a table of its own: titles, brands, categories, descriptions, prices, years.

The columns go by the names in `headers.FACTS`; the id is what tables of events call an item, or `id`. The items of the
events are found by id: as it stands or, where that finds none, as a spreadsheet may have changed it ("017" and "17.0"
for "17"), or by the title where the events name items by it.
"""

import ast
import html
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrec.data.readers.amazon import read_metadata
from jaxrec.data.readers.headers import FACTS, LAST, PUBLISHED, WIDE, first_of, item_ids, plain
from jaxrec.data.readers.names import identity, loose, prose
from jaxrec.data.readers.raw import DataError, Item, Problems
from jaxrec.data.readers.rows import Table, open_table

SHOWN = 3  # names that a message gives


def read_items(path: Path, problems: Problems, named: Mapping[str, str]) -> dict[str, Item]:
    """What is known of each item by its id; of several rows about one the first with a title stands.

    path: a table in any format that events may have, or Amazon's `meta_*.json`. problems: is told of guesses, malformed
    rows and columns that are not read. named: the columns "item" and "title" where the header does not tell, and
    "same", the id's column in the events, which stands if the table has it.
    Raises DataError where there is no such file, or which column is the id or the title is not clear.
    """
    if not path.is_file():
        raise DataError(f"there is no file of items {path} (data.items)")
    table = open_table(path, problems, named, tells_items)
    if {"parent_asin", "title"} <= set(table.header) or {"asin", "title"} <= set(table.header):
        return read_metadata(path, problems)
    place = _places(table, path, problems, named)
    found: dict[str, Item] = {}
    again: Counter[str] = Counter()
    for at, row in table.of_width(path, problems):
        try:
            name = identity(row[place["id"]])
        except ValueError as error:
            problems.note(path, at, str(error), str(row))
            continue
        if not name:
            problems.note(path, at, "no id of an item", " ".join(map(str, row)))
            continue
        if name in found:
            again[name] += 1
            if found[name].title:
                continue
        found[name] = _item(row, place, table.header)
    if again:
        problems.say(
            f"{path.name}: {len(again):,} items have several rows ({_some(again)}): the first stands"
        )
    return found


def join_items(
    items: dict[str, Item], events: Sequence[str], path: Path, problems: Problems
) -> dict[str, Item]:
    """The facts by the names that the events use; what has no counterpart is counted and named.

    items: what `read_items` gave. events: the names of the events' items. path: of the facts, for messages. problems:
    is told how many items have no title and how many no event. Raises DataError where the two have no item in common.
    """
    renamed = _renamed(items, events, path, problems)
    there = set(events)
    silent = [name for name in events if name not in renamed or not renamed[name].title]
    alone = [name for name in renamed if name not in there]
    if silent:
        problems.say(
            f"{path.name}: {len(silent):,} of {len(events):,} items with events have no title "
            f"({_some(silent)})"
        )
    if alone:
        problems.say(f"{path.name}: {len(alone):,} items have no events ({_some(alone)})")
    return renamed


def tells_items(header: Sequence[str]) -> bool:
    """Whether a row is the header of a table of items: it names an id and a title, or two facts."""
    facts = sum(first_of(header, names) is not None for names in FACTS.values())
    return (bool(_ids(header)) and facts > 0) or facts > 1


def _ids(header: Sequence[str]) -> list[int]:
    """Columns that may be the id, best first."""
    names = [*PUBLISHED["item"].split(), "id"]
    keys = [plain(name) for name in header]
    found = [keys.index(plain(name)) for name in names if plain(name) in keys]
    return found or item_ids(header)


def _places(
    table: Table, path: Path, problems: Problems, named: Mapping[str, str]
) -> dict[str, int]:
    header = table.header
    if not header:
        if table.width < 2:
            raise DataError(f"{path}: a table of items needs an id and a title; it has one column")
        left = f"; not read: columns 2 to {table.width - 1}" if table.width > 2 else ""
        problems.say(f"{path.name}: no header: column 0 is taken for the id, 1 for the title{left}")
        return {"id": 0, "title": 1}
    place: dict[str, int] = {}
    for what, flag in {"id": "item", "title": "title"}.items():
        if wanted := named.get(flag, ""):
            if wanted not in header:
                flag = "items-id" if what == "id" else "items-title"
                raise DataError(
                    f"{path}: no column {wanted!r}; there are: {', '.join(header)} (--data.{flag} COLUMN)"
                )
            place[what] = header.index(wanted)
    ids = [i for i in _ids(header) if i not in place.values()]
    if "id" not in place and named.get("same") in header:
        place["id"] = header.index(named["same"])
    if "id" not in place and ids:
        place["id"] = ids[0]
    for what, names in FACTS.items():
        if what not in place:
            free = ["" if i in place.values() else name for i, name in enumerate(header)]
            if (at := first_of(free, names)) is not None:
                place[what] = at
    if "title" not in place:  # "product" beside a code is its name
        free = ["" if i in place.values() else name for i, name in enumerate(header)]
        if (at := first_of(free, LAST["item"] + " " + WIDE["item"])) is not None:
            place["title"] = at
    there = ", ".join(header)
    if "title" not in place:
        raise DataError(
            f"{path}: which column is the title? There are: {there}; say it by --data.items-title COLUMN"
        )
    if "id" not in place:
        if len(header) > 1 and set(range(len(header))) - set(place.values()):
            raise DataError(
                f"{path}: which column is the item's id? There are: {there}; say it by --data.items-id COLUMN"
            )
        problems.say(f"{path.name}: no column of ids: items are known by their titles")
        place["id"] = place["title"]
    read = ", ".join(f"{what} = {header[at]!r}" for what, at in place.items())
    left = [name for i, name in enumerate(header) if i not in place.values()]
    problems.say(f"{path.name}: {read}" + (f"; not read: {', '.join(left)}" if left else ""))
    return place


def _item(row: list[Any], place: Mapping[str, int], header: Sequence[str]) -> Item:
    text = {
        what: " ".join(html.unescape(prose(_joined_text(row[at]))).split())
        for what, at in place.items()
        if what not in ("id", "category")
    }
    names: tuple[str, ...] = ()
    if "category" in place:
        at = place["category"]
        key = plain(header[at]) if header else ""
        names = categories(
            row[at], key.endswith("s") or key in ("genre", "жанр", "жанры", "категории")
        )
    return Item(category=names, **text)


def categories(value: Any, several: bool = False) -> tuple[str, ...]:
    """Names out of a list, of one written as text, or of a text with > | ; / between them.

    several: a comma divides as well (the column is called genre, or in the plural).
    """
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = value.strip().strip("[]")
    if isinstance(value, list | tuple):
        flat = [part for inner in value for part in (inner if isinstance(inner, list) else [inner])]
        names = [prose(_joined_text(name)) for name in flat]
    else:
        text = html.unescape(prose(value))
        mark = next((mark for mark in ("|", ">", ";") if mark in text), "," if several else None)
        names = text.split(mark) if mark else [text]
    return tuple(dict.fromkeys(name for name in (n.strip() for n in names) if name))


def _joined_text(value: Any) -> Any:
    """A list of texts, or of objects with a name (authors say), as one text."""
    if isinstance(value, list):
        return ", ".join(filter(None, (prose(_joined_text(part)) for part in value)))
    if isinstance(value, dict):
        return value.get("name") or value.get("title") or ""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _renamed(
    items: dict[str, Item], events: Sequence[str], path: Path, problems: Problems
) -> dict[str, Item]:
    there = set(events)
    same = len(there & items.keys())
    if same == len(there):
        return items
    key_of: dict[str, list[str]] = {}
    for name in items:
        if name not in there:
            key_of.setdefault(loose(name), []).append(name)
    missing = Counter(loose(name) for name in events if name not in items)
    found = {
        key_of[loose(name)][0]: name
        for name in events
        if name not in items and len(key_of.get(loose(name), ())) == 1 == missing[loose(name)]
    }
    if found:
        one = next(iter(found.items()))
        problems.say(
            f"{path.name}: {len(found):,} items are written otherwise than in the events ({one[0]!r} there, "
            f"{one[1]!r} here): taken for the same"
        )
    elif not same:
        titled = Counter(item.title for item in items.values())
        by_title = {item.title: item for item in items.values() if titled[item.title] == 1}
        if not there & by_title.keys():
            raise DataError(
                f"{path}: none of its items ({_some(items)}) has an event, whose items are {_some(events)}: "
                "--data.items-id COLUMN says which column is the id"
            )
        problems.say(f"{path.name}: the events name items by their titles")
        return {name: by_title[name] for name in events if name in by_title} | {
            name: item for name, item in items.items() if item.title not in there
        }
    return {found.get(name, name): item for name, item in items.items()}


def _some(names: Any) -> str:
    shown = [repr(name) for name, _ in zip(names, range(SHOWN), strict=False)]
    return ", ".join(shown) + (", ..." if len(names) > SHOWN else "")

"""RecBole's atomic files: `X.inter`, `X.item`, `X.user`, tab separated, with a typed header (Zhao et al. 2021).

In a benchmark of sequences (`item_id_list:token_seq`) a row holds a history and what came next: the rows of a person
are joined where they overlap, and the target is their newest event.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from jaxrec.data.readers.headers import FACTS, Columns, columns_of, first_of
from jaxrec.data.readers.names import identity, prose
from jaxrec.data.readers.raw import DataError, Events, Item, Problems, RawSet
from jaxrec.data.readers.table import add_rows
from jaxrec.data.readers.text_files import beside, lines, stem
from jaxrec.data.readers.times import seconds

TYPES = ("token", "float", "token_seq", "float_seq")
TITLES = "title movie_title item_title name item_name " + FACTS["title"]
CATEGORIES = "class genre genres category categories " + FACTS["category"]
_TYPED = re.compile(rf"[^\t]*?:({'|'.join(TYPES)})")


def is_atomic(first: str) -> bool:
    """Whether a first line is the typed header of an atomic file (that of one column at least)."""
    cells = re.split(r"[\t,]", first.lstrip("\ufeff").strip())
    return any(_TYPED.fullmatch(cell.strip().strip('"')) for cell in cells)


def read_recbole(path: Path, problems: Problems, named: dict[str, str]) -> RawSet:
    """Events of an .inter file, with the .item and .user files of the same stem where they are there.

    named: columns by meaning (user, item, rating, time), where they bear no name that is known. Raises DataError where
    a column holds sequences that are nobody's history.
    """
    events = Events()
    header, types, rows = typed_rows(path, problems)
    columns = columns_of(header, named, path, problems, facts=False)
    if "token_seq" in types:
        _add_histories(events, rows, columns, header, types, path, problems)
    else:
        add_rows(events, rows, columns, path, problems)
    base = stem(path).removesuffix(".inter")
    items = _items(there, problems) if (there := beside(path.parent, f"{base}.item")) else {}
    people = _people(there, problems) if (there := beside(path.parent, f"{base}.user")) else {}
    return RawSet("recbole", events.interactions(), events.review, events.summary, items, people)


def typed_rows(
    path: Path, problems: Problems
) -> tuple[list[str], list[str], Iterator[tuple[int, list[str]]]]:
    """The names of the columns, their types, and the rows; those of another width are noted."""
    source = lines(path, problems)
    _, first = next(source, (1, ""))
    first = first.lstrip("\ufeff").rstrip("\n")
    mark = "\t" if "\t" in first or "," not in first else ","
    header = [name.strip().rpartition(":") for name in first.split(mark)]
    wrong = [name or kind for name, _, kind in header if kind not in TYPES or not name]
    if wrong:
        raise DataError(
            f"{path}:1: not a RecBole file: its header should read `user_id:token<TAB>item_id:token...`, each "
            f"column with one of the types {', '.join(TYPES)}; {wrong[0]!r} has none"
        )

    def rows() -> Iterator[tuple[int, list[str]]]:
        for at, line in source:
            row = line.rstrip("\n").split(mark)
            if row == [""]:
                continue
            if len(row) != len(header):
                problems.note(path, at, f"not {len(header)} columns", line)
                continue
            yield at, row

    return [name for name, _, _ in header], [kind for _, _, kind in header], rows()


def _add_histories(
    events: Events,
    rows: Iterator[tuple[int, list[str]]],
    columns: Columns,
    header: list[str],
    types: list[str],
    path: Path,
    problems: Problems,
) -> None:
    """Each row's history and target; the arguments are those of `add_rows` and the typed header."""
    name = header[columns.item]
    wanted = f"{name}_list"
    if wanted not in header or types[header.index(wanted)] != "token_seq":
        of = next(n for n, kind in zip(header, types, strict=True) if kind == "token_seq")
        raise DataError(
            f"{path}: column {of!r} holds sequences (token_seq) that are not the history of {name!r}: rename it "
            f"{wanted!r} if it is, or drop it"
        )
    place = header.index(wanted)
    when = None
    if columns.time is not None:
        times = f"{header[columns.time]}_list"
        if times not in header:
            raise DataError(f"{path}: {wanted!r} needs the times of the history in {times!r}")
        when = header.index(times)
    if columns.rating is not None:
        problems.say(f"{path.name}: the rating is that of the target alone: ratings are not read")
    problems.say(f"{path.name}: a row is a history ({wanted}) and what came next ({name})")
    known: dict[str, list[tuple[str, int]]] = {}
    for at, row in rows:
        try:
            user, target = identity(row[columns.user]), identity(row[columns.item])
            history = [identity(item) for item in row[place].split()]
            stamps = [0] * (len(history) + 1)
            if when is not None:
                stamps = [*map(seconds, row[when].split()), seconds(row[columns.time or 0])]
        except (ValueError, OverflowError) as error:
            problems.note(path, at, f"not a history and a target ({error})", "\t".join(row))
            continue
        if not user or not all([*history, target]) or len(stamps) != len(history) + 1:
            problems.note(path, at, "not a history and a target", "\t".join(row))
            continue
        told = list(zip([*history, target], stamps, strict=True))
        whole = known.setdefault(user, [])
        same = range(min(len(whole), len(told)), 0, -1)
        overlap = next((n for n in same if whole[-n:] == told[:n]), 0)
        whole += told[overlap:]
    for user, taken in known.items():
        for item, stamp in taken:
            events.add(user, item, time=None if when is None else stamp)


def _items(path: Path, problems: Problems) -> dict[str, Item]:
    header, _, rows = typed_rows(path, problems)
    key = header.index("item_id") if "item_id" in header else 0
    place = {
        "title": first_of(header, TITLES),
        "brand": first_of(header, "brand store " + FACTS["brand"]),
        "category": first_of(header, CATEGORIES),
        "description": first_of(header, FACTS["description"]),
        "year": first_of(header, "release_year year " + FACTS["year"]),
        "price": first_of(header, FACTS["price"]),
    }
    place = {what: at for what, at in place.items() if at not in (None, key)}
    left = [name for i, name in enumerate(header) if i != key and i not in place.values()]
    if left:
        problems.say(f"{path.name}: not read: {', '.join(left)}")
    pick = lambda row, what: prose(row[place[what]]) if what in place else ""
    return {
        row[key].strip(): Item(
            title=pick(row, "title"),
            brand=pick(row, "brand"),
            category=_sequence(pick(row, "category")),
            description=pick(row, "description"),
            year=pick(row, "year"),
            price=pick(row, "price"),
        )
        for _, row in rows
    }


def _people(path: Path, problems: Problems) -> dict[str, dict[str, str]]:
    header, _, rows = typed_rows(path, problems)
    key = header.index("user_id") if "user_id" in header else 0
    return {
        row[key].strip(): {name: prose(row[i]) for i, name in enumerate(header) if i != key}
        for _, row in rows
    }


def _sequence(text: str) -> tuple[str, ...]:
    """A token_seq: quoted names between commas (Amazon's categories), or tokens between | or spaces."""
    if "'" in text and "," in text:
        parts = text.strip("[]").split(",")
    else:
        parts = text.split("|") if "|" in text else text.split(" ")
    return tuple(part.strip().strip("'\"") for part in parts if part.strip().strip("'\""))

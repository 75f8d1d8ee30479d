"""RecBole's atomic files: `X.inter`, `X.item`, `X.user`, tab separated, with a typed header (Zhao et al. 2021)."""

from collections.abc import Iterator
from pathlib import Path

from jaxrec.data.readers.raw import DataError, Events, Item, Problems, RawSet, beside, lines, stem
from jaxrec.data.readers.table import Columns, add_rows

TITLES = ("title", "movie_title", "item_title", "name", "item_name")
CATEGORIES = ("class", "genre", "genres", "category", "categories")


def read_recbole(path: Path, problems: Problems, named: dict[str, str]) -> RawSet:
    """Events of an .inter file, with the .item and .user files of the same stem where they are there.

    named: columns by meaning (user, item, rating, time), where they bear no name that is known.
    """
    events = Events()
    rows = typed_rows(path, problems)
    _, header = next(rows)
    columns = Columns.of(header, named, path)
    add_rows(events, rows, columns, path, problems)
    base = stem(path).removesuffix(".inter")
    items = _items(there, problems) if (there := beside(path.parent, f"{base}.item")) else {}
    people = _people(there, problems) if (there := beside(path.parent, f"{base}.user")) else {}
    return RawSet("recbole", events.interactions(), events.review, events.summary, items, people)


def typed_rows(path: Path, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """First the names of the columns without their types, then the rows; those of another width are noted."""
    source = lines(path)
    _, first = next(source, (1, ""))
    header = [name.partition(":") for name in first.lstrip("\ufeff").rstrip("\n").split("\t")]
    if not all(kind for _, _, kind in header):
        raise DataError(
            f"{path}:1: not a RecBole file: its header should read `user_id:token<TAB>item_id:token...`"
        )
    yield 1, [name for name, _, _ in header]
    for at, line in source:
        row = line.rstrip("\n").split("\t")
        if row == [""]:
            continue
        if len(row) != len(header):
            problems.note(path, at, f"not {len(header)} columns", line)
            continue
        yield at, row


def _items(path: Path, problems: Problems) -> dict[str, Item]:
    rows = typed_rows(path, problems)
    _, header = next(rows)
    place = {name: i for i, name in enumerate(header)}
    key = place.get("item_id", 0)
    pick = lambda row, *names: next((row[place[n]] for n in names if n in place), "")
    return {
        row[key]: Item(
            title=pick(row, *TITLES),
            brand=pick(row, "brand", "store"),
            category=_sequence(pick(row, *CATEGORIES)),
            description=pick(row, "description"),
            year=pick(row, "release_year", "year"),
        )
        for _, row in rows
    }


def _people(path: Path, problems: Problems) -> dict[str, dict[str, str]]:
    rows = typed_rows(path, problems)
    _, header = next(rows)
    key = header.index("user_id") if "user_id" in header else 0
    return {
        row[key]: {name: row[i] for i, name in enumerate(header) if i != key} for _, row in rows
    }


def _sequence(text: str) -> tuple[str, ...]:
    """A token_seq: quoted names between commas (Amazon's categories), or tokens between | or spaces."""
    if "'" in text and "," in text:
        parts = text.strip("[]").split(",")
    else:
        parts = text.split("|") if "|" in text else text.split(" ")
    return tuple(part.strip().strip("'\"") for part in parts if part.strip().strip("'\""))

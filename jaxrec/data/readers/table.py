"""Tables of events, one row an event: CSV and TSV with or without header, `::` files, `u.data`, Parquet."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.data.readers import times
from jaxrec.data.readers.headers import Columns, columns_of, fact_places
from jaxrec.data.readers.names import identity, prose
from jaxrec.data.readers.raw import DataError, Events, Item, Problems, RawSet
from jaxrec.data.readers.rows import Row, Table, open_table

ASIN = re.compile(r"B[0-9A-Z]{9}|\d{9}[\dX]")
BLOCK = 10_000  # rows that are turned into numbers at once


def read_table(
    path: Path, problems: Problems, named: dict[str, str], documented: bool = False
) -> RawSet:
    """Events of a table; columns by header, by `named`, or by looking (Amazon's, MovieLens's and pairs).

    path: the file. problems: is told of guesses, malformed rows and columns that are not read. named: columns by
    meaning. documented: the layout says what columns without a header are, so that it needs no word.
    """
    table = open_table(path, problems, named)
    if table.header:
        columns = columns_of(table.header, named, path, problems)
    else:
        columns = guess(table, named, path, Problems() if documented else problems)
    events = Events()
    day_first = day_first_of(table, columns, path, problems)
    facts: dict[str, Item] = {}
    rows = with_facts(table.of_width(path, problems), table.header, columns, facts)
    add_rows(events, rows, columns, path, problems, day_first)
    return RawSet("table", events.interactions(), events.review, events.summary, facts)


def with_facts(
    rows: Iterator[tuple[int, Row]], header: Sequence[str], columns: Columns, facts: dict[str, Item]
) -> Iterator[tuple[int, Row]]:
    """The rows as they pass, of which the first about each item tells its title and more (`headers.fact_places`).

    rows: with their line numbers. header: the names of the columns. columns: where each part of an event stands.
    facts: items by name, which is filled on the way.
    """
    places = fact_places(header, columns)
    for at, row in rows:
        if not places:
            yield at, row
            continue
        try:
            name = identity(row[columns.item])
        except ValueError:
            name = ""
        if name and name not in facts:
            told = {what: prose(row[place]).strip() for what, place in places.items()}
            if "category" in told:
                told["category"] = (told["category"],) if told["category"] else ()
            facts[name] = Item(**told)
        yield at, row


def day_first_of(table: Table, columns: Columns, path: Path, problems: Problems) -> bool | None:
    """Whether dates between slashes begin with the day: as the first rows tell, or else the whole column.

    table: the rows. columns: where each part of an event stands. path: of the file, for messages. problems: holds
    the setting `day_first`, and is told which order was found. None: there are no such dates, or nothing decides
    it.
    """
    if columns.time is None or problems.day_first is not None:
        return problems.day_first
    place = columns.time
    head = [row[place] for row in table.head if len(row) == table.width]
    if not times.has_slashes(head):
        return None
    first = times.day_or_month(head)
    if first is None:
        every = (row[place] for _, row in table.rows() if len(row) == table.width)
        first = times.day_or_month(every)
    if first is not None:
        order = "day" if first else "month"
        problems.say(f"{path.name}: dates such as {head[0]!r} are read with the {order} first")
    return first


def add_rows(
    events: Events,
    rows: Iterator[tuple[int, Row]],
    columns: Columns,
    path: Path,
    problems: Problems,
    day_first: bool | None = None,
) -> None:
    """Rows with their line numbers as events, a block at a time; a block with a malformed row goes row by row.

    events: what they are added to. columns: where each thing stands. path: for messages. problems: is told of malformed
    rows. day_first: how dates between slashes begin (`times.seconds`).
    """
    while block := list(itertools.islice(rows, BLOCK)):
        cells = [None if place is None else [row[place] for _, row in block] for place in columns]
        try:
            users, items = map(_identities, cells[:2])
            ratings, when = map(_numbers, cells[2:4])
            if when is not None:
                if not times.plain_seconds(when):
                    raise ValueError("each of them needs a look")
                when = times.of_size(when)
            texts = [None if part is None else [prose(text) for text in part] for part in cells[4:]]
        except (ValueError, TypeError, OverflowError):
            for at, row in block:
                add_row(events, row, columns, path, at, problems, day_first)
        else:
            events.extend(users, items, ratings, when, *texts)


def _identities(cells: Sequence[Any]) -> list[str]:
    names = {value: identity(value) for value in dict.fromkeys(cells)}
    if not all(names.values()):
        raise ValueError("one of them names nobody")
    return [names[value] for value in cells]


def _numbers(cells: Sequence[Any] | None) -> np.ndarray | None:
    if cells is None:
        return None
    if any(type(cell) is bool or (type(cell) is str and "_" in cell) for cell in cells):
        raise ValueError("one of them is no number")
    numbers = np.array(cells, np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError("one of them is not finite")
    return numbers


def add_row(
    events: Events,
    row: Row,
    columns: Columns,
    path: Path,
    at: int,
    problems: Problems,
    day_first: bool | None = None,
) -> None:
    """One row as an event, or a note of what is wrong with it.

    events: what it is added to. row: its cells. columns: where each part of an event stands. path, at: the file and the
    line, from 1, for messages. problems: is told what is wrong. day_first: how dates between slashes begin, None where
    nothing decides it (`times.seconds`).
    """
    shown = lambda: " ".join(map(str, row))
    try:
        user, item = identity(row[columns.user]), identity(row[columns.item])
    except ValueError as error:
        problems.note(path, at, str(error), shown())
        return
    if not user or not item:
        problems.note(path, at, "no user or no item", shown())
        return
    try:
        rating = None if columns.rating is None else times.number(row[columns.rating])
    except (ValueError, TypeError, OverflowError):
        problems.note(path, at, "the rating is not a number", str(row[columns.rating or 0]))
        return
    try:
        time = None if columns.time is None else times.seconds(row[columns.time], day_first)
    except (ValueError, TypeError, OverflowError) as error:
        either = "may begin" in str(error)
        why = (
            "the date may begin with the day or the month: data.day_first settles it"
            if either
            else "the time is not in Unix seconds"
        )
        problems.note(path, at, why, str(row[columns.time or 0]))
        return
    review = None if columns.review is None else prose(row[columns.review])
    summary = None if columns.summary is None else prose(row[columns.summary])
    events.add(user, item, rating, time, review, summary)


def guess(table: Table, named: Mapping[str, str], path: Path, problems: Problems) -> Columns:
    """Columns of a table without header.

    Four columns are user, item, rating, time, as MovieLens and Amazon 2014 publish them; where the first column holds
    ASINs and the second does not, item comes first (Amazon 2018). Three are user, item and a rating of 0..10 or a time;
    two are user, item. What was taken for what is said. Raises DataError for anything else.

    table: its rows and their width. named: positions by meaning, as the configuration gives them; with any of them
    nothing is guessed. path: of the file, for messages. problems: is told what was taken for what.
    """
    width = table.width
    rows = [row for row in table.head if len(row) == width]
    if any(named.values()):
        return by_place(named, width, path)
    shown = f"(first row: {rows[0]})"
    flags = "give their positions, from 0: --data.user, --data.item, --data.rating, --data.time"
    if width not in (2, 3, 4):
        raise DataError(f"{path}: a table of {width} columns without header {shown}; {flags}")
    dated = [i for i in (0, 1) if _mostly(rows, i, _is_date)]
    asin = [sum(bool(ASIN.fullmatch(row[i])) for row in rows) / len(rows) for i in (0, 1)]
    user, item = (1, 0) if asin[0] > 0.9 > asin[1] else (0, 1)
    rest = range(2, width)
    rated = [i for i in rest if _mostly(rows, i, _is_rating)]
    timed = [i for i in rest if i not in rated and _mostly(rows, i, times.is_time)]
    if dated or len(rated) > 1 or len(timed) > 1 or len(rated) + len(timed) < len(rest):
        raise DataError(
            f"{path}: {width} columns without header that do not look like user, item, rating, time {shown}; {flags}"
        )
    columns = Columns(user, item, *rated[:1] or [None], *timed[:1] or [None])
    said = ", ".join(
        f"{what} = column {place}"
        for what, place in zip(Columns._fields, columns, strict=True)
        if place is not None
    )
    problems.say(
        f"{path.name}: no header, taken by their values: {said} (--data.user and so on settle it)"
    )
    return columns


def by_place(named: Mapping[str, str], width: int, path: Path) -> Columns:
    """From positions ("0", "1", ...) that the configuration gives for a table without header."""
    found = {what: int(place) for what, place in named.items() if place.isdigit()}
    if not {"user", "item"} <= found.keys() or max(found.values()) >= width:
        given = ", ".join(f"{what} {place}" for what, place in named.items() if place)
        raise DataError(
            f"{path}: a table of {width} columns without header: give the positions, from 0, of at least "
            f"--data.user and --data.item (given: {given})"
        )
    return Columns(**found)


def _is_date(cell: Any) -> bool:
    return not cell.isdigit() and times.is_time(cell)


def _is_rating(cell: Any) -> bool:
    return 0 <= times.number(cell) <= 10


def _mostly(rows: list[Row], place: int, good: Any) -> bool:
    """Whether nearly all cells of a column are good (some rows may be malformed)."""
    count = 0
    for row in rows:
        try:
            count += bool(good(row[place]))
        except ValueError:
            continue
    return count > 0.8 * len(rows)

"""Tables of events: a CSV or TSV with or without header, `::` files, `u.data`; one row an event."""

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrec.data.readers.raw import (
    MILLISECONDS,
    DataError,
    Events,
    Problems,
    RawSet,
    lines,
    number,
    records,
    seconds,
    stem,
)

NAMES = {
    "user": "user_id userId user reviewerID reviewer_id UserId uid user_name customer_id",
    "item": "item_id itemId item movieId movie_id parent_asin asin ProductId product_id iid business_id",
    "rating": "rating overall Rating stars score Score",
    "time": "timestamp unixReviewTime time Timestamp Time unix_time",
    "review": "reviewText review_text text review Text",
    "summary": "summary Summary review_title",
}
ASIN = re.compile(r"B[0-9A-Z]{9}|\d{9}[\dX]")
BLOCK = 10_000  # rows that are turned into numbers at once
SAMPLE = 500  # rows at which one looks to tell what columns without a header mean


class Columns(NamedTuple):
    """Where in a row each thing stands; None where the table has it not."""

    user: int
    item: int
    rating: int | None = None
    time: int | None = None
    review: int | None = None
    summary: int | None = None

    @classmethod
    def of(cls, header: Sequence[str], named: dict[str, str], path: Path) -> "Columns":
        """By the names in a header; `named` says them by meaning. Raises DataError where user or item is missing."""
        place = {name: i for i, name in enumerate(header)}
        found = {}
        for what, names in NAMES.items():
            wanted = named.get(what, "")
            if wanted and wanted not in place:
                raise DataError(f"{path}: no column {wanted!r}; there are: {', '.join(header)}")
            known = [wanted] if wanted else [n for n in names.split() if n in place]
            found[what] = place[known[0]] if known else None
        for what in ("user", "item"):
            if found[what] is None:
                raise DataError(
                    f"{path}: which column is the {what}? There are: {', '.join(header)}; "
                    f"name it in the configuration (data.{what})"
                )
        return cls(**found)

    @classmethod
    def by_place(cls, named: dict[str, str], width: int, path: Path) -> "Columns":
        """From positions ("0", "1", ...) that the configuration gives for a table without header."""
        found = {what: int(place) for what, place in named.items() if place.isdigit()}
        if not {"user", "item"} <= found.keys() or max(found.values()) >= width:
            raise DataError(
                f"{path}: a table of {width} columns without header: give the positions, from 0, of at least "
                f"data.user and data.item (given: {named})"
            )
        return cls(**found)


def read_table(path: Path, problems: Problems, named: dict[str, str]) -> RawSet:
    """Events of a table; columns by header, by `named`, or by looking (Amazon's, MovieLens's and pairs)."""
    events = Events()
    delimiter = delimiter_of(path)
    rows = split_rows(path, delimiter)
    head = [row for row, _ in zip(rows, range(SAMPLE), strict=False)]
    if not head:
        raise DataError(f"{path}: no rows")
    rows = split_rows(path, delimiter)
    if has_header(head[0][1], named):
        _, header = next(rows)
        columns, width = Columns.of([cell.strip() for cell in header], named, path), len(header)
    else:
        columns, width = guess([row for _, row in head], named, path)
    add_rows(events, _of_width(rows, width, path, delimiter, problems), columns, path, problems)
    return RawSet("table", events.interactions(), events.review, events.summary)


def add_rows(
    events: Events,
    rows: Iterator[tuple[int, list[str]]],
    columns: Columns,
    path: Path,
    problems: Problems,
) -> None:
    """Rows with their line numbers as events, a block at a time; a block with a malformed row goes row by row."""
    while block := list(itertools.islice(rows, BLOCK)):
        cells = [None if place is None else [row[place] for _, row in block] for place in columns]
        try:
            users, items = ([name.strip() for name in names] for names in cells[:2])
            ratings = None if cells[2] is None else np.array(cells[2], np.float64)
            times = None if cells[3] is None else np.array(cells[3], np.float64)
            numbers = [x for x in (ratings, times) if x is not None]
            if not (all(users) and all(items) and all(np.isfinite(x).all() for x in numbers)):
                raise ValueError("one of them is malformed")
            if times is not None:
                if times.min() < 0:
                    raise ValueError("one of them is malformed")
                times = np.where(times >= MILLISECONDS, times // 1000, times)
            events.extend(users, items, ratings, times, cells[4], cells[5])
        except ValueError:
            for at, row in block:
                add_row(events, row, columns, path, at, problems)


def _of_width(
    rows: Iterator[tuple[int, list[str]]],
    width: int,
    path: Path,
    delimiter: str,
    problems: Problems,
) -> Iterator[tuple[int, list[str]]]:
    for at, row in rows:
        if len(row) == width:
            yield at, row
        elif row:
            problems.note(path, at, f"not {width} columns", delimiter.join(row))


def add_row(
    events: Events, row: list[str], columns: Columns, path: Path, at: int, problems: Problems
) -> None:
    """One row as an event, or a note of what is wrong with it."""
    user, item = row[columns.user].strip(), row[columns.item].strip()
    if not user or not item:
        problems.note(path, at, "no user or no item", " ".join(row))
        return
    try:
        rating = None if columns.rating is None else number(row[columns.rating])
    except ValueError:
        problems.note(path, at, "the rating is not a number", row[columns.rating or 0])
        return
    try:
        time = None if columns.time is None else seconds(row[columns.time])
    except ValueError:
        problems.note(path, at, "the time is not in Unix seconds", row[columns.time or 0])
        return
    review = None if columns.review is None else row[columns.review]
    summary = None if columns.summary is None else row[columns.summary]
    events.add(user, item, rating, time, review, summary)


def delimiter_of(path: Path) -> str:
    """`::`, tab, comma, or " " for any white space, by the first line."""
    first = next(lines(path), (1, ""))[1]
    for delimiter in ("::", "\t", ","):
        if delimiter in first:
            return delimiter
    return " "


def split_rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Rows of cells with their line numbers; empty lines are left out."""
    if delimiter == ",":
        yield from (pair for pair in records(path) if pair[1])
        return
    encoding = "latin-1" if stem(path).endswith(".dat") else "utf-8"
    for at, line in lines(path, encoding):
        if line := line.strip("\r\n"):
            yield at, line.split() if delimiter == " " else line.split(delimiter)


def has_header(row: list[str], named: dict[str, str]) -> bool:
    """Whether a first row holds names of columns."""
    cells = {cell.strip() for cell in row}
    known = {name for what in ("user", "item") for name in NAMES[what].split()}
    # Amazon publishes no header, but people write the documented one, `user,item,rating,timestamp`.
    return bool(cells & known) or any(
        not place.isdigit() and place in cells for place in named.values()
    )


def guess(rows: list[list[str]], named: dict[str, str], path: Path) -> tuple[Columns, int]:
    """Columns of a table without header, and its width.

    Four columns are user, item, rating, time, as MovieLens and Amazon 2014 publish them; where the first column holds
    ASINs and the second does not, item comes first (Amazon 2018). Three are user, item and a rating of 0..10 or a time;
    two are user, item. Raises DataError for anything else.
    """
    widths = [len(row) for row in rows]
    width = max(set(widths), key=widths.count)
    rows = [row for row in rows if len(row) == width]
    if any(named.values()):
        return Columns.by_place(named, width, path), width
    if width not in (2, 3, 4):
        raise DataError(
            f"{path}: a table of {width} columns without header; give the positions, from 0, of data.user and data.item"
        )
    asin = [sum(bool(ASIN.fullmatch(row[i])) for row in rows) / len(rows) for i in (0, 1)]
    user, item = (1, 0) if asin[0] > 0.9 > asin[1] else (0, 1)
    if width == 2:
        return Columns(user, item), width
    are_ratings, are_times = _are(rows, 2, 0.0, 10.0), _are(rows, width - 1, 1e8, 1e14)
    if width == 3 and are_ratings:
        return Columns(user, item, 2), width
    if width == 3 and are_times:
        return Columns(user, item, None, 2), width
    if width == 4 and are_ratings and are_times:
        return Columns(user, item, 2, 3), width
    raise DataError(
        f"{path}: {width} columns without header that do not look like user, item, rating, time "
        f"(first row: {rows[0]}); give their positions, from 0: data.user, data.item, data.rating, data.time"
    )


def _are(rows: list[list[str]], place: int, low: float, high: float) -> bool:
    """Whether nearly all cells of a column are numbers within bounds (some rows may be malformed)."""
    good = 0
    for row in rows:
        try:
            good += low <= number(row[place]) <= high
        except ValueError:
            continue
    return good > 0.8 * len(rows)

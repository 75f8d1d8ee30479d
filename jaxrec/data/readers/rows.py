"""A table in whichever file: CSV by any common separator, JSON lines, a JSON array, Parquet, Feather; one row a list.

Nothing here knows what a column means: `headers` does.
"""

import ast
import csv
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxrec.data.readers.headers import names_anything, names_events
from jaxrec.data.readers.raw import DataError, Problems
from jaxrec.data.readers.text_files import lines, records, stem
from jaxrec.data.readers.times import is_time, number

SAMPLE = (
    500  # rows at which one looks to tell a separator, a header, and what columns without one mean
)
KEYS = 2000  # JSON objects whose keys are the columns
WHOLE = 1 << 28  # characters of JSON that is not in lines are read at once up to here
Row = list[Any]


@dataclasses.dataclass
class Table:
    """`header` (empty where the table has none), the first rows after it, and all of them with their line numbers.

    Rows of another width are given as they are; `width` is the right one, `delimiter` what joins the cells of a text.
    """

    header: list[str]
    head: list[Row]
    rows: Callable[[], Iterator[tuple[int, Row]]]
    width: int
    delimiter: str = " "

    def of_width(self, path: Path, problems: Problems) -> Iterator[tuple[int, Row]]:
        """The rows of the right width; the others are noted as malformed."""
        for at, row in self.rows():
            if len(row) == self.width and row != self.header:
                yield at, row
            elif row == self.header:
                problems.note(path, at, "the header again", self.delimiter.join(row))
            elif row:
                text = self.delimiter.join(map(str, row))
                problems.note(path, at, f"not {self.width} columns", text)


def open_table(
    path: Path,
    problems: Problems,
    named: Mapping[str, str],
    tells: Callable[[Row], bool] = names_events,
) -> Table:
    """Any table.

    path: the file. problems: is told of guesses. named: columns that the configuration gives; their names make a
    header. tells: whether a row is surely a header. Raises DataError where there are no rows, or the file is none.
    """
    if stem(path).endswith((".parquet", ".pq", ".feather", ".arrow")):
        return _arrow(path)
    first = next((line for _, line in lines(path, problems) if line.strip()), "")
    if not first:
        raise DataError(f"{path}: no rows")
    if first.lstrip("\ufeff \t")[0] in "{[":
        return _json(path, problems)
    return _text(path, problems, named, tells)


# ------------------------------------------------------------------------------------------ text


def _text(
    path: Path, problems: Problems, named: Mapping[str, str], tells: Callable[[Row], bool]
) -> Table:
    delimiter = delimiter_of(path, problems)
    rows = lambda: split_rows(path, delimiter, problems)
    head = [row for _, row in itertools.islice(rows(), SAMPLE)]
    if not is_header(head[0], head[1:], named, tells):
        widths = [len(row) for row in head]
        return Table([], head, rows, max(set(widths), key=widths.count), delimiter)
    header = [cell.strip().lstrip("\ufeff") for cell in head[0]]
    if len(header) > 1 and not header[-1] and all(len(r) == len(header) for r in head):
        header[-1] = f"column {len(header) - 1}"  # a separator ends each line
    after = lambda: itertools.islice(rows(), 1, None)
    return Table(header, head[1:], after, len(header), delimiter)


def delimiter_of(path: Path, problems: Problems | None = None) -> str:
    """`::`, tab, `;`, `|`, comma, or " " for any white space: that of the first line which divides the rows evenly."""
    first = next((line for _, line in lines(path, problems) if line.strip()), "")
    for delimiter in ("::", "\t"):
        if delimiter in first:
            return delimiter
    even: dict[str, float] = {}
    for delimiter in (",", ";", "|"):
        if delimiter in first:
            rows = [
                row
                for _, row in itertools.islice(records(path, delimiter, problems), SAMPLE)
                if row
            ]
            if rows and len(rows[0]) > 1:
                even[delimiter] = sum(len(row) == len(rows[0]) for row in rows) / len(rows)
    return max(even, key=lambda mark: even[mark]) if even else " "


def split_rows(
    path: Path, delimiter: str, problems: Problems | None = None
) -> Iterator[tuple[int, list[str]]]:
    """Rows of cells with their line numbers; empty lines are left out."""
    if delimiter in (",", ";", "|"):
        yield from (pair for pair in records(path, delimiter, problems) if pair[1])
        return
    quoted = False
    for at, line in lines(path, problems):
        if not (line := line.strip("\r\n")):
            continue
        row = line.split() if delimiter == " " else line.split(delimiter)
        # Tables between tabs are seldom quoted; one whose whole header is, is.
        quoted = quoted or (at == 1 and all(len(c) > 1 and c[0] == c[-1] == '"' for c in row))
        if quoted and len(delimiter) == 1:
            row = next(csv.reader([line], delimiter=delimiter))
        yield at, row


def is_header(
    row: Row,
    others: list[Row],
    named: Mapping[str, str],
    tells: Callable[[Row], bool] = names_events,
) -> bool:
    """Whether a first row holds names of columns rather than an event.

    It does where it has a name that the configuration gives, or the names of people and items. A number among its cells
    says that it does not; text above a column of numbers or times that it does; and so does a known name in a row
    whose cells come again in no other.

    row: the first row. others: rows below it, to compare with. named: columns that the configuration gives, by
    meaning. tells: whether a row has the names that are looked for (default: people and items).
    """
    cells = {cell.strip() for cell in row}
    if any(place and not place.isdigit() and place in cells for place in named.values()):
        return True
    if any(map(_is_number, row)):
        return False
    if tells(row):
        return True
    same = [other for other in others if len(other) == len(row)]
    for i, cell in enumerate(row):
        below = [other[i] for other in same]
        numbers = sum(_is_number(x) or is_time(x) for x in below)
        if below and numbers > 0.8 * len(below) and not is_time(cell):
            return True
    again = any(cell == other[i] for other in same for i, cell in enumerate(row))
    return names_anything(row, named) and not again


def _is_number(cell: Any) -> bool:
    try:
        number(cell)
    except (ValueError, TypeError):
        return False
    return True


# ------------------------------------------------------------------------------------------ JSON


def _json(path: Path, problems: Problems) -> Table:
    whole = _whole_json(path, problems)
    objects = (lambda: iter(whole)) if whole is not None else (lambda: json_rows(path, problems))
    quiet = Problems(encoding=problems.encoding)
    head = list(whole[:KEYS]) if whole is not None else None
    if head is None:
        head = list(itertools.islice(json_rows(path, quiet), KEYS))
    if not head:
        raise DataError(
            f"{path}: no JSON object a line; first: {next(iter(quiet.first), 'nothing')}"
        )
    header = list(dict.fromkeys(str(key) for _, row in head for key in row))
    cells = lambda row: [row.get(key) for key in header]
    rows = lambda: ((at, cells(row)) for at, row in objects())
    return Table(header, [cells(row) for _, row in head[:SAMPLE]], rows, len(header))


def _whole_json(path: Path, problems: Problems) -> list[tuple[int, dict[str, Any]]] | None:
    """The objects of a file that is one JSON value, an array of them or pandas's columns; None where it is in lines."""
    first = (
        next((line for _, line in lines(path, problems) if line.strip()), "")
        .lstrip("\ufeff")
        .strip()
    )
    if object_of(first) is not None and not _nested(object_of(first)):
        return None
    text = "".join(itertools.takewhile(_Short(), (line for _, line in lines(path, problems))))
    try:
        value = json.loads(text.lstrip("\ufeff"))
    except (json.JSONDecodeError, RecursionError):
        return None
    rows = []
    for at, row in enumerate(_parts(value), 1):
        if isinstance(row, dict):
            rows.append((at, row))
        else:
            problems.note(path, at, "not a JSON object", str(row))
    return rows


def _parts(value: Any) -> list[Any]:
    """The rows of one JSON value: an array, pandas's columns or its "split", one array within an object, an object."""
    if not isinstance(value, dict):
        return value if isinstance(value, list) else [value]
    if {"columns", "data"} <= set(value):
        return [dict(zip(value["columns"], row, strict=False)) for row in value["data"]]
    inner = [part for part in value.values() if isinstance(part, list) and part]
    if len(inner) == 1 and isinstance(inner[0][0], dict):
        return inner[0]
    if _nested(value):  # {"user": {"0": "a", ...}, ...} or {"user": ["a", ...], ...}
        columns = [
            list(part.values()) if isinstance(part, dict) else part for part in value.values()
        ]
        if len(set(map(len, columns))) == 1:
            return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    return [value]


class _Short:
    def __init__(self) -> None:
        self.left = WHOLE

    def __call__(self, line: str) -> bool:
        self.left -= len(line)
        return self.left > 0


def _nested(value: Any) -> bool:
    return bool(value) and all(isinstance(part, dict | list) for part in value.values())


def json_rows(path: Path, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    """One object a line, in JSON or in Python's notation (Amazon 2014, Steam); others are noted as malformed."""
    for at, line in lines(path, problems):
        if not line.strip():
            continue
        row = object_of(line)
        if row is not None:
            yield at, row
        else:
            problems.note(path, at, "not a JSON object", line)


def object_of(line: str) -> dict[str, Any] | None:
    """The JSON object, or the dict in Python's notation, that a line holds."""
    try:
        row = json.loads(line.lstrip("\ufeff"))
    except (json.JSONDecodeError, RecursionError):
        try:
            row = ast.literal_eval(line.lstrip("\ufeff").strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            row = None
    return row if isinstance(row, dict) else None


# ------------------------------------------------------------------------------------------ Arrow


def _arrow(path: Path) -> Table:
    import pyarrow as pa
    from pyarrow import feather, parquet

    try:
        if stem(path).endswith((".parquet", ".pq")):
            file = parquet.ParquetFile(path)
            schema, batches = file.schema_arrow, lambda: file.iter_batches(batch_size=10_000)
        else:
            table = feather.read_table(path)
            schema, batches = table.schema, lambda: iter(table.to_batches(max_chunksize=10_000))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: neither Parquet nor Feather: {error}") from None

    def column(part: Any) -> list[Any]:
        if pa.types.is_timestamp(part.type):  # beyond microseconds Python's own times do not go
            part = part.cast(pa.timestamp("us", part.type.tz), safe=False)
        return part.to_pylist()

    def rows() -> Iterator[tuple[int, Row]]:
        at = 0
        for batch in batches():
            for row in zip(*map(column, batch.columns), strict=True):
                at += 1
                yield at, list(row)

    head = [row for _, row in itertools.islice(rows(), SAMPLE)]
    if not head:
        raise DataError(f"{path}: no rows")
    return Table(list(schema.names), head, rows, len(schema.names))

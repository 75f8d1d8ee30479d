"""Which layout a file or folder has, told by looking at it."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

from jaxrec.data.readers import cdrib, minionerec
from jaxrec.data.readers.amazon import read_amazon_json
from jaxrec.data.readers.headers import names_events
from jaxrec.data.readers.movielens import RATINGS, read_movielens
from jaxrec.data.readers.netflix import FILM, read_netflix
from jaxrec.data.readers.raw import DataError, Problems, RawSet
from jaxrec.data.readers.recbole import is_atomic, read_recbole
from jaxrec.data.readers.rows import delimiter_of, object_of, open_table, split_rows
from jaxrec.data.readers.sequences import read_pairs, read_sequences
from jaxrec.data.readers.table import read_table
from jaxrec.data.readers.text_files import beside, lines, stem

FILES: dict[str, Callable[[Path, Problems, dict[str, str]], RawSet]] = {
    "recbole": read_recbole,
    "movielens": read_movielens,
    "amazon-json": read_amazon_json,
    "json": read_amazon_json,
    "table": read_table,
    "sequences": read_sequences,
    "pairs": read_pairs,
    "netflix": read_netflix,
}
LAYOUTS = (*FILES, "cdrib", "minionerec")
SAMPLE = 2000  # lines of a file that are looked at
ARROW = (".parquet", ".pq", ".feather", ".arrow")


def read_layout(
    path: Path, layout: str, file: str, problems: Problems, named: dict[str, str]
) -> RawSet:
    """Everything of a file or folder. Raises DataError where no layout fits, saying what was looked for.

    path: the file or folder. layout: one of `LAYOUTS`, or "auto" to tell it by looking. file: which file of a
    folder, "" to choose the main one. problems: is told of guesses, malformed rows and what is not read. named:
    columns by meaning ("user", "item", "rating", "time"), "" where the header tells.
    """
    if layout not in ("auto", *LAYOUTS):
        raise DataError(f"there is no layout {layout!r}; there are: auto, {', '.join(LAYOUTS)}")
    if not path.exists():
        raise DataError(f"there is no file or folder {path}")
    if path.is_dir() and not file:
        if layout == "cdrib" or (layout == "auto" and cdrib.shops_of(path)):
            return cdrib.read_cdrib(path, problems)
        if layout == "minionerec" or (layout == "auto" and minionerec.files_of(path)):
            return minionerec.read_minionerec(path, problems)
    if layout in ("cdrib", "minionerec"):
        raise DataError(f"{path}: layout {layout!r} is a folder's")
    if path.is_dir():
        path = path / file if file else main_file(path, problems, named)
        if not path.is_file():
            raise DataError(f"there is no file {path}")
    layout = detect_layout(path, problems, named) if layout == "auto" else layout
    return FILES[layout](path, problems, named)


def main_file(
    folder: Path, problems: Problems | None = None, named: Mapping[str, str] | None = None
) -> Path:
    """The file of a folder that holds the events. Raises DataError where there is none, or more than one could be."""
    files = sorted(p for p in folder.iterdir() if p.is_file())
    quiet = Problems(encoding=problems.encoding if problems else "")
    damaged: list[str] = []

    def holds(path: Path) -> bool:
        try:
            return _holds_events(path, quiet, named or {})
        except DataError as error:
            damaged.append(str(error))
            return False

    for matches in (
        [p for p in files if stem(p).endswith(".inter")],
        [p for name in RATINGS if (p := beside(folder, name))],
        [p for name in ("sequences.txt", "sequential_data.txt") if (p := beside(folder, name))],
        [p for p in files if stem(p).endswith((".json", ".jsonl", ".ndjson")) and holds(p)],
        [p for p in files if stem(p).endswith((".csv", ".tsv", *ARROW)) and holds(p)],
        [p for p in files if stem(p).endswith((".txt", ".dat", ".data")) and _tells(p, quiet)],
    ):
        own = [p for p in matches if stem(p).split(".")[0] == folder.name]
        if len(own or matches) == 1:
            return (own or matches)[0]
        if matches:
            names = ", ".join(p.name for p in matches)
            raise DataError(
                f"{folder} holds several sets of events ({names}): name one as data.file"
            )
    raise DataError(
        f"{folder}: no file of events among {', '.join(p.name for p in files) or 'nothing'}; looked for *.inter, "
        f"{', '.join(RATINGS)}, sequences.txt, JSON lines or a table of user and item, plain text"
        + "".join(f"; {why}" for why in damaged)
    )


def detect_layout(path: Path, problems: Problems, named: Mapping[str, str]) -> str:
    """The layout of one file. Raises DataError where its content fits none."""
    if layout := _tells(path, Problems(encoding=problems.encoding), named):
        return layout
    first = next(lines(path), (1, ""))[1].strip()[:80]
    if not first:
        raise DataError(f"{path}: no rows")
    raise DataError(
        f"{path}: no layout fits; its first line is {first!r}. Give data.layout ({', '.join(FILES)}) and, for a "
        "table, the columns data.user and data.item"
    )


def _tells(path: Path, quiet: Problems, named: Mapping[str, str] | None = None) -> str | None:
    name = stem(path)
    if name.endswith(ARROW):
        return "table"
    source = lines(path, quiet)
    head = [line.rstrip("\r\n") for (_, line), _ in zip(source, range(SAMPLE), strict=False)]
    head = [line for line in head if line.strip()]
    if not head:
        return None
    first = head[0].lstrip("\ufeff")
    cells = first.split("\t")
    if is_atomic(first):
        return "recbole"
    if first.lstrip()[:1] in ("{", "["):
        return "amazon-json"
    if name in RATINGS or "::" in first:
        return "movielens"
    if FILM.fullmatch(first.strip()):
        return "netflix"
    if any(mark in first for mark in ",;|") and name.endswith((".csv", ".txt")):
        return "table"
    if "\t" in first and len(cells) in (3, 4):
        return "movielens" if name == "u.data" else "table"
    if "\t" in first and name.endswith((".tsv", ".csv", ".data", ".inter")):
        return "table"
    rows = [line.split() for line in head]
    if layout := _numbers(rows):
        return layout
    if set((named or {}).values()) - {""}:
        return "table"
    delimiter = delimiter_of(path, quiet)
    cells = next(split_rows(path, delimiter, quiet))[1]
    divided = delimiter != " " and (
        name.endswith((".csv", ".tsv")) or _even(path, delimiter, quiet)
    )
    return "table" if names_events(cells) or _ends_in_numbers(rows) or divided else None


def _even(path: Path, delimiter: str, quiet: Problems) -> bool:
    """Whether a mark divides the lines into three cells or more, always as many: prose does not."""
    rows = [row for _, row in itertools.islice(split_rows(path, delimiter, quiet), SAMPLE)]
    return len(rows) > 1 and len(rows[0]) > 2 and {len(row) for row in rows} == {len(rows[0])}


def _ends_in_numbers(rows: list[list[str]]) -> bool:
    """Whether lines of words are rows of three or four cells of which the last is a number (Epinions, Ciao)."""
    good = [row for row in rows if row[-1].replace(".", "", 1).isdigit()]
    return {len(row) for row in rows} <= {3, 4} and len(good) > 0.8 * len(rows)


def _holds_events(path: Path, quiet: Problems, named: Mapping[str, str]) -> bool:
    """Whether a file of a folder holds events: with a header that names people and items, or none at all."""
    wanted = {name for name in named.values() if name}
    tells = lambda header: names_events(header) or bool(wanted & set(header))
    if path.name.startswith("meta_"):
        return False
    if not stem(path).endswith(ARROW):
        first = next((line for _, line in lines(path, quiet) if line.strip()), "")
        row = object_of(first) if first.startswith("{") else None
        if row is not None:
            return tells(list(map(str, row)))
        if not first or (stem(path).endswith((".csv", ".tsv")) and _tells(path, quiet) != "table"):
            return False
    try:
        header = open_table(path, quiet, named).header
    except DataError:
        return False
    return tells(header) if header else True


def _numbers(rows: list[list[str]]) -> str | None:
    """Lines of whole numbers: a sequence a person, or an event a line."""
    good = [row for row in rows if all(cell.lstrip("-").isdigit() for cell in row)]
    if len(good) < 0.8 * len(rows) or not good:
        return None
    widths = {len(row) for row in good}
    people = len({row[0] for row in good})
    if widths == {2}:
        return "pairs"
    if widths == {4} and all(int(row[3]) >= 100_000_000 for row in good):
        return "table"
    # In sequences each person has one line; a table's first column repeats.
    return "sequences" if people >= 0.99 * len(good) and max(widths) > 2 else None

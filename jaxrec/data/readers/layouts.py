"""Which layout a file or folder has, told by looking at it."""

from collections.abc import Callable
from pathlib import Path

from jaxrec.data.readers import cdrib, minionerec
from jaxrec.data.readers.amazon import read_amazon_json
from jaxrec.data.readers.movielens import RATINGS, read_movielens
from jaxrec.data.readers.raw import DataError, Problems, RawSet, beside, lines, stem
from jaxrec.data.readers.recbole import read_recbole
from jaxrec.data.readers.sequences import read_pairs, read_sequences
from jaxrec.data.readers.table import read_table

FILES: dict[str, Callable[[Path, Problems, dict[str, str]], RawSet]] = {
    "recbole": read_recbole,
    "movielens": read_movielens,
    "amazon-json": read_amazon_json,
    "table": read_table,
    "sequences": read_sequences,
    "pairs": read_pairs,
}
LAYOUTS = (*FILES, "cdrib", "minionerec")
SAMPLE = 2000  # lines of a file that are looked at


def read_layout(
    path: Path, layout: str, file: str, problems: Problems, named: dict[str, str]
) -> RawSet:
    """Everything of a file or folder. Raises DataError where no layout fits, saying what was looked for."""
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
        path = path / file if file else main_file(path)
        if not path.is_file():
            raise DataError(f"there is no file {path}")
    return FILES[told(path) if layout == "auto" else layout](path, problems, named)


def main_file(folder: Path) -> Path:
    """The file of a folder that holds the events. Raises DataError where there is none, or more than one could be."""
    files = sorted(p for p in folder.iterdir() if p.is_file())
    for matches in (
        [p for p in files if stem(p).endswith(".inter")],
        [p for name in RATINGS if (p := beside(folder, name))],
        [p for name in ("sequences.txt", "sequential_data.txt") if (p := beside(folder, name))],
        [p for p in files if stem(p).endswith((".json", ".jsonl")) and _holds_reviews(p)],
        [p for p in files if stem(p).endswith((".csv", ".tsv")) and _tells(p) == "table"],
        [p for p in files if stem(p).endswith((".txt", ".dat", ".data")) and _tells(p)],
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
        f"{', '.join(RATINGS)}, sequences.txt, Amazon JSON lines, a CSV of user and item, plain text"
    )


def told(path: Path) -> str:
    """The layout of one file. Raises DataError where its content fits none."""
    if layout := _tells(path):
        return layout
    first = next(lines(path), (1, ""))[1].strip()[:80]
    raise DataError(
        f"{path}: no layout fits; its first line is {first!r}. Give data.layout ({', '.join(FILES)}) and, for a "
        "table, the columns data.user and data.item"
    )


def _tells(path: Path) -> str | None:
    head = [line.rstrip("\r\n") for (_, line), _ in zip(lines(path), range(SAMPLE), strict=False)]
    head = [line for line in head if line.strip()]
    if not head:
        return None
    first, name = head[0], stem(path)
    cells = first.lstrip("\ufeff").split("\t")
    if all(":" in cell and "::" not in cell for cell in cells) and "user_id:" in first:
        return "recbole"
    if first.startswith("{"):
        return "amazon-json" if _holds_reviews(path) else None
    if name in RATINGS or "::" in first:
        return "movielens"
    if "," in first and name.endswith((".csv", ".txt")):
        return "table"
    if "\t" in first and len(cells) in (3, 4):
        return "movielens" if name == "u.data" else "table"
    if "\t" in first and name.endswith((".tsv", ".data", ".inter")):
        return "table"
    return _numbers([line.split() for line in head])


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


def _holds_reviews(path: Path) -> bool:
    """Whether JSON lines speak of a person: metadata do not."""
    if path.name.startswith("meta_"):
        return False
    first = next((line for _, line in lines(path) if line.strip()), "")
    return first.startswith("{") and any(f'"{key}"' in first for key in ("reviewerID", "user_id"))

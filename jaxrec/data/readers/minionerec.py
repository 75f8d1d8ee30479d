"""Sets as MiniOneRec publishes them: `*.item.json`, and CSVs of a history (10 items at most) and what came next.

The rows are split by time, 8:1:1. Where the train CSV lies in the folder it is read; where it does not, a person's
training history is what the first of their validation and test rows tells: that much of it, and no more, is public.
"""

import ast
from pathlib import Path

import numpy as np

from jaxrec.data.histories import Holdout, Split, from_lists
from jaxrec.data.readers.raw import DataError, Events, Item, Problems, RawSet
from jaxrec.data.readers.text_files import read_json, records, stem

PARTS = ("train", "valid", "test")
Row = tuple[str, list[int], int]


def files_of(folder: Path) -> dict[str, Path]:
    """The files of such a set by part ("train", "valid", "test", "item", "index"); empty where it is none."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        name = stem(path)
        for part in PARTS:
            if name.endswith(".csv") and (name.startswith(f"{part}_") or path.parent.name == part):
                found[part] = path
        for part in ("item", "index"):
            if name.endswith(f".{part}.json"):
                found[part] = path
    return found if {"item", "valid", "test"} <= found.keys() else {}


def read_minionerec(folder: Path, problems: Problems) -> RawSet:
    """Events: each person's rows joined in the order of train, valid, test. `published`: the rows as they stand."""
    files = files_of(folder)
    if not files:
        raise DataError(
            f"{folder}: not MiniOneRec's: it needs *.item.json, valid_*.csv, test_*.csv"
        )
    items = _items(files)
    rows = {
        part: _rows(files[part], len(items), problems) if part in files else [] for part in PARTS
    }
    joined: dict[str, list[int]] = {}
    learned: dict[str, list[int]] = {}
    for part in PARTS:
        for user, history, target in rows[part]:
            if user not in joined:
                joined[user], learned[user] = list(history), list(history)
            whole = joined[user]
            whole += history[_overlap(whole, history) :]
            whole.append(target)
            if part == "train":
                learned[user] = list(whole)
    events = Events()
    events.items = {str(i): i for i in range(len(items))}
    for user, sequence in joined.items():
        for item in sequence:
            events.add(user, str(item))
    published = Split(
        train=from_lists([learned[user] for user in events.users], len(items)),
        valid=_holdout(rows["valid"], events.users, len(items)),
        test=_holdout(rows["test"], events.users, len(items)),
    )
    return RawSet("minionerec", events.interactions(), items=items, published=published)


def _items(files: dict[str, Path]) -> dict[str, Item]:
    codes = read_json(files["index"]) if "index" in files else {}
    found = {}
    for key, row in sorted(read_json(files["item"]).items(), key=lambda pair: int(pair[0])):
        category = row.get("categories") or ""
        names = category if isinstance(category, list) else category.split(",")
        found[key] = Item(
            title=str(row.get("title") or ""),
            brand=str(row.get("brand") or ""),
            category=tuple(name.strip() for name in names if name.strip()),
            description=_text(row.get("description")),
            code=tuple(codes.get(key, ())),
        )
    if list(found) != [str(i) for i in range(len(found))]:
        raise DataError(f"{files['item']}: items are not numbered from 0 without gaps")
    return found


def _text(value: object) -> str:
    """A description: text, a list of texts, or such a list written out as text."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return str(value)
    return " ".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _rows(path: Path, n_items: int, problems: Problems) -> list[Row]:
    source = records(path, ",", problems)
    _, header = next(source, (1, []))
    try:
        user, history, item = map(header.index, ("user_id", "history_item_id", "item_id"))
    except ValueError:
        raise DataError(f"{path}: no columns user_id, history_item_id, item_id") from None
    found: list[Row] = []
    for at, row in source:
        try:
            items = [int(i) for i in row[history].strip("[]").split(",") if i.strip()]
            target = int(row[item])
        except (ValueError, IndexError):
            problems.note(path, at, "not a history and a target", ",".join(row))
            continue
        if not all(0 <= i < n_items for i in [*items, target]):
            problems.note(path, at, "an item that no one knows", ",".join(row))
            continue
        found.append((row[user], items, target))
    return found


def _overlap(whole: list[int], history: list[int]) -> int:
    """How many items at the start of `history` are the end of what is known already."""
    return next(
        (n for n in range(min(len(whole), len(history)), 0, -1) if whole[-n:] == history[:n]), 0
    )


def _holdout(rows: list[Row], users: dict[str, int], n_items: int) -> Holdout:
    user_B = np.array([users[user] for user, _, _ in rows], np.int64)
    target_B = np.array([target for _, _, target in rows], np.int64)
    asked = from_lists([history for _, history, _ in rows], n_items, user_B)
    return Holdout(asked, target_B)

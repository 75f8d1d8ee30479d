"""Amazon reviews: JSON lines of 2014, 2018 and 2023, and the items' metadata beside them.

McAuley et al. 2015; Ni, Li and McAuley 2019; Hou et al. 2024.
"""

import ast
import html
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxrec.data.readers.raw import Events, Item, Problems, RawSet, lines, number, seconds, stem
from jaxrec.data.readers.table import NAMES

MARKUP = ("<span", "getTime", "var aPageStart")  # what stands in place of some titles of 2018


def read_amazon_json(path: Path, problems: Problems, named: dict[str, str]) -> RawSet:
    """Reviews, with titles, brands and categories from `meta_*.json` in the same folder where it is there.

    Reviews without an answer to who, what, how good or when are malformed; a missing text is an empty one.
    """
    events = Events()
    for at, review in json_rows(path, problems):
        value = {what: _first(review, named.get(what, ""), names) for what, names in NAMES.items()}
        if not value["user"] or not value["item"]:
            problems.note(path, at, "no user or no item", json.dumps(review))
            continue
        try:
            rating, time = number(value["rating"]), seconds(value["time"])
        except (TypeError, ValueError):
            problems.note(path, at, "no rating or no time", json.dumps(review))
            continue
        summary = value["summary"]
        if summary is None and "parent_asin" in review:  # 2023 calls a review's headline its title
            summary = review.get("title")
        text = str(value["review"] or "")
        events.add(str(value["user"]), str(value["item"]), rating, time, text, str(summary or ""))
    items: dict[str, Item] = {}
    for there in metadata(path):
        items |= read_metadata(there, problems)
    return RawSet("amazon-json", events.interactions(), events.review, events.summary, items)


def metadata(path: Path) -> list[Path]:
    """The metadata that belong to a file of reviews: `meta_NAME` of `NAME_5` or `NAME`, or the only one there is."""
    there = sorted(p for p in path.parent.glob("meta_*") if ".json" in p.name)
    name = stem(path).split(".json")[0].removeprefix("reviews_").removesuffix("_5")
    own = [p for p in there if stem(p).split(".json")[0] == f"meta_{name}"]
    return own or (there if len(there) == 1 else [])


def read_metadata(path: Path, problems: Problems) -> dict[str, Item]:
    """What is known of each item; of several rows about one the first with a title stands."""
    found: dict[str, Item] = {}
    for at, row in json_rows(path, problems):
        asin = row.get("parent_asin") or row.get("asin")
        if not asin:
            problems.note(path, at, "no asin", json.dumps(row))
            continue
        if asin in found and found[asin].title:
            continue
        title = str(row.get("title") or "")
        found[asin] = Item(
            title="" if any(mark in title for mark in MARKUP) else _clean(title),
            brand=_clean(str(row.get("brand") or row.get("store") or "")),
            category=_categories(row),
            description=_clean(_joined(row.get("description"))),
            asin=asin,
        )
    return found


def json_rows(path: Path, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    """One object a line (that of 2014's metadata in Python's own notation); others are noted as malformed."""
    for at, line in lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            try:
                row = ast.literal_eval(line.strip())
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                row = None
        if isinstance(row, dict):
            yield at, row
        else:
            problems.note(path, at, "not a JSON object", line)


def _first(row: dict[str, Any], wanted: str, names: str) -> Any:
    return next(
        (row[name] for name in ([wanted] if wanted else names.split()) if name in row), None
    )


def _categories(row: dict[str, Any]) -> tuple[str, ...]:
    """2018 gives a list of names, 2014 a list of lists (the first path stands), 2023 either."""
    value = row.get("category") or row.get("categories") or []
    if isinstance(value, list) and value and isinstance(value[0], list):
        value = value[0]
    names = [value] if isinstance(value, str) else value
    # Some lists of 2018 go on with features of the product, which no category is as long as.
    names = [_clean(str(name)) for name in names if len(str(name)) <= 60]
    return tuple(dict.fromkeys(name for name in names if name))


def _joined(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _clean(text: str) -> str:
    return " ".join(html.unescape(text).split())

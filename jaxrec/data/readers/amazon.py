"""Reviews as JSON: Amazon's of 2014, 2018 and 2023 with the items' metadata beside them, Yelp's, Steam's, a shop's.

McAuley et al. 2015; Ni, Li and McAuley 2019; Hou et al. 2024.
"""

import html
import json
from pathlib import Path
from typing import Any

from jaxrec.data.readers.headers import columns_of
from jaxrec.data.readers.names import prose
from jaxrec.data.readers.raw import Events, Item, Problems, RawSet
from jaxrec.data.readers.rows import json_rows, open_table
from jaxrec.data.readers.table import add_rows, day_first_of, with_facts
from jaxrec.data.readers.text_files import stem

MARKUP = ("<span", "getTime", "var aPageStart")  # what stands in place of some titles of 2018


def read_amazon_json(path: Path, problems: Problems, named: dict[str, str]) -> RawSet:
    """Reviews, with titles, brands and categories from `meta_*.json` in the same folder where it is there.

    A set whose first objects have neither rating nor time has none; a review without what the others have is malformed,
    but that a missing text is an empty one.
    """
    table = open_table(path, problems, named)
    header, events = table.header, Events()
    if "summary" not in header and {"parent_asin", "title"} <= set(header):
        # 2023 calls a review's headline its title.
        header = ["summary" if name == "title" else name for name in header]
    columns = columns_of(header, named, path, problems)
    day_first = day_first_of(table, columns, path, problems)
    items: dict[str, Item] = {}
    rows = with_facts(table.rows(), header, columns, items)
    add_rows(events, rows, columns, path, problems, day_first)
    for there in metadata(path):
        items |= read_metadata(there, problems)
    amazon = {"asin", "parent_asin", "reviewerID"} & set(header)
    layout = "amazon-json" if amazon else "json"
    return RawSet(layout, events.interactions(), events.review, events.summary, items)


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
        asin = str(row.get("parent_asin") or row.get("asin") or "")
        if not asin:
            problems.note(path, at, "no asin", json.dumps(row))
            continue
        if asin in found and found[asin].title:
            continue
        title = prose(row.get("title"))
        found[asin] = Item(
            title="" if any(mark in title for mark in MARKUP) else _clean(title),
            brand=_clean(row.get("brand") or row.get("store")),
            category=_categories(row),
            description=_clean(row.get("description")),
            asin=asin,
            price=_clean(row.get("price")),
        )
    return found


def _categories(row: dict[str, Any]) -> tuple[str, ...]:
    """2018 gives a list of names, 2014 a list of lists (the first path stands), 2023 either."""
    value = row.get("category") or row.get("categories") or []
    if isinstance(value, list) and value and isinstance(value[0], list):
        value = value[0]
    names = [value] if isinstance(value, str) else value
    # Some lists of 2018 go on with features of the product, which no category is as long as.
    names = [_clean(str(name)) for name in names if len(str(name)) <= 60]
    return tuple(dict.fromkeys(name for name in names if name))


def _clean(text: Any) -> str:
    return " ".join(html.unescape(prose(text)).split())

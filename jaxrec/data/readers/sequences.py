"""Plain sequences: one line a person, `user item item ...`, oldest first, with neither ratings nor times.

So S3-Rec, P5 and SASRec's successors publish the Amazon sets. Beside the file may lie `item_title.tsv`,
`item_asin.tsv`, `item_attributes.json` (brand and categories), `*semantic_ids.json`, and MovieLens's `movies.dat`,
`users.dat`.
"""

from pathlib import Path

from jaxrec.data.readers.movielens import films, viewers
from jaxrec.data.readers.names import BROKEN, broken
from jaxrec.data.readers.raw import Events, Item, Problems, RawSet
from jaxrec.data.readers.text_files import beside, lines, read_json, stem


def read_sequences(path: Path, problems: Problems, named: dict[str, str]) -> RawSet:
    """Events in the order of the lines. A line without items, or a second one of the same person, is malformed."""
    events = Events()
    met: set[str] = set()
    users: list[str] = []
    taken: list[str] = []
    for at, line in lines(path, problems):
        user, *items = line.split() or [""]
        if not user:
            continue
        if broken(line):
            problems.note(path, at, BROKEN, line)
        elif not items:
            problems.note(path, at, "a person without items", line)
        elif user in met:
            problems.note(path, at, "a second line of the same person", line)
        else:
            met.add(user)
            users += [user] * len(items)
            taken += items
    events.extend(users, taken)
    known = films(path.parent, problems)
    _titles(path.parent, known, problems)
    _attributes(path.parent, known)
    _codes(path.parent, known, events.items)
    people = viewers(path.parent, problems)
    return RawSet("sequences", events.interactions(), items=known, people=people)


def read_pairs(path: Path, problems: Problems, named: dict[str, str]) -> RawSet:
    """`user item` a line, each person's oldest first (the format of SASRec's own files)."""
    events = Events()
    for at, line in lines(path, problems):
        row = line.split()
        if broken(line):
            problems.note(path, at, BROKEN, line)
        elif len(row) == 2:
            events.add(*row)
        elif row:
            problems.note(path, at, "not 2 columns", line)
    return RawSet("pairs", events.interactions())


def _titles(folder: Path, known: dict[str, Item], problems: Problems) -> None:
    """`item_title.tsv` and `item_asin.tsv`: a header of item_id, asin, title, in any order."""
    for name in ("item_asin.tsv", "item_title.tsv"):
        path = beside(folder, name)
        if path is None:
            continue
        header: list[str] = []
        for at, line in lines(path, problems):
            row = line.rstrip("\r\n").split("\t", max(len(header) - 1, 0) or -1)
            if not header:
                header = row
            elif len(row) != len(header):
                problems.note(path, at, f"not {len(header)} columns", line)
            else:
                cells = dict(zip(header, row, strict=True))
                item = known.setdefault(cells.get("item_id", row[0]), Item())
                item.asin = cells.get("asin", item.asin)
                item.title = " ".join(cells.get("title", item.title).split())  # some hold tabs


def _attributes(folder: Path, known: dict[str, Item]) -> None:
    """`item_attributes.json`: the brand, where the item has one, then the path of categories.

    A name that stands first only, never after another one, is a brand; "Unknown" is none.
    """
    path = beside(folder, "item_attributes.json")
    if path is None:
        return
    rows = {str(key): [str(name) for name in names] for key, names in read_json(path).items()}
    inner = {name for names in rows.values() for name in names[1:]}
    for key, names in rows.items():
        item = known.setdefault(key, Item())
        branded = bool(names) and names[0] not in inner
        item.brand = names[0] if branded and names[0] != "Unknown" else ""
        item.category = tuple(names[branded:])


def _codes(folder: Path, known: dict[str, Item], numbered: dict[str, int]) -> None:
    """Published semantic ids. Their keys count items from 0: item 1 has key 0 where the items begin at 1."""
    found = sorted(p for p in folder.glob("*semantic_ids.json*") if stem(p).endswith(".json"))
    if not found or not all(name.isdigit() for name in numbered):
        return
    offset = min(map(int, numbered), default=0)
    for key, code in read_json(found[0]).items():
        known.setdefault(str(int(key) + offset), Item()).code = tuple(code)

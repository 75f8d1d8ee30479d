"""The six businesses written by hand (texts/<key>/), read into the same `WorldTenant` as the generated ones.

    style.json          name, trade, temper, held_out, style (see `Style`), guide
    pages.jsonl         knowledge base: {"id", "title", "text"}
    onboarding.jsonl    dialogues: {"id", "topic", "pages": [page ids], "turns": [{"role", "text"}]}
    heldout.jsonl       the same, never trained on
    preferences.jsonl   {"id", "question", "chosen", "rejected", "why"}

Reading is strict: a count, an id, a reference, or a field that is not as it should be stops with file and row.
"""

import json
from importlib import resources
from importlib.resources.abc import Traversable

from jaxrec.data.tenant import Dialogue, Page, Preference, Turn
from jaxrec.world.records import TOPICS, WorldTenant
from jaxrec.world.style import Style

KEYS = (
    "harbour_bakery",
    "northline_cycles",
    "fern_dental",
    "brightbyte_repairs",
    "kestrel_travel",
    "moss_garden",
)
PAGES_AT_LEAST, ONBOARDING, PREFERENCES, HELD_OUT = 15, 60, 40, 40
GUIDE_WORDS = (120, 200)


def read_businesses(root: Traversable | None = None) -> list[WorldTenant]:
    """All six, in the order of `KEYS`: four to train on, then the two that are held out."""
    return [read_business(key, root) for key in KEYS]


def read_business(key: str, root: Traversable | None = None) -> WorldTenant:
    """One business by its folder's name; ValueError names file, row, and what is wrong with it."""
    folder = (root or resources.files(__package__) / "texts") / key
    if not folder.is_dir():
        raise ValueError(f"no business {key!r}: there is no folder {folder}")
    head = _fields(
        json.loads((folder / "style.json").read_text("utf-8")), HEAD, f"{key}/style.json"
    )
    style = Style.from_json(head["style"])
    words = len(head["guide"].split())
    if not GUIDE_WORDS[0] <= words <= GUIDE_WORDS[1]:
        raise ValueError(
            f"{key}/style.json: the guide has {words} words, not {GUIDE_WORDS[0]} to {GUIDE_WORDS[1]}"
        )
    pages = tuple(Page(**row) for row in _rows(folder, "pages", ("id", "title", "text")))
    if len(pages) < PAGES_AT_LEAST:
        raise ValueError(
            f"{key}/pages.jsonl: {len(pages)} pages, at least {PAGES_AT_LEAST} are needed"
        )
    known = {page.id for page in pages}
    tenant = WorldTenant(
        key=key,
        name=head["name"],
        trade=head["trade"],
        temper=head["temper"],
        held_out=head["held_out"],
        style=style,
        never=style.rivals,
        guide=head["guide"],
        pages=pages,
        onboarding=_dialogues(folder, "onboarding", ONBOARDING, known),
        preferences=_preferences(folder),
        heldout=_dialogues(folder, "heldout", HELD_OUT, known),
    )
    _disjoint(tenant)
    return tenant


HEAD = ("name", "trade", "temper", "held_out", "style", "guide")
DIALOGUE = ("id", "topic", "pages", "turns")
PREFERENCE = ("id", "question", "chosen", "rejected", "why")


def _fields(row: dict, names: tuple[str, ...], where: str) -> dict:
    if set(row) != set(names):
        raise ValueError(f"{where}: fields {sorted(row)}, expected {sorted(names)}")
    empty = [name for name in names if row[name] in ("", [], {}, None)]
    if empty:
        raise ValueError(f"{where}: empty {empty}")
    return row


def _rows(folder: Traversable, name: str, fields: tuple[str, ...]) -> list[dict]:
    """A JSON-lines file with unique ids, each row with exactly these fields."""
    where = f"{folder.name}/{name}.jsonl"
    rows: list[dict] = []
    for number, line in enumerate((folder / f"{name}.jsonl").read_text("utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}:{number}: not JSON ({error})") from error
        rows.append(_fields(row, fields, f"{where}:{number}"))
    ids = [row["id"] for row in rows]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise ValueError(f"{where}: ids that stand twice: {twice}")
    return rows


def _counted(folder: Traversable, name: str, fields: tuple[str, ...], count: int) -> list[dict]:
    rows = _rows(folder, name, fields)
    if len(rows) != count:
        raise ValueError(f"{folder.name}/{name}.jsonl: {len(rows)} rows, expected {count}")
    return rows


def _dialogues(folder: Traversable, name: str, count: int, known: set[str]) -> tuple[Dialogue, ...]:
    dialogues = []
    for row in _counted(folder, name, DIALOGUE, count):
        where = f"{folder.name}/{name}.jsonl {row['id']}"
        missing = set(row["pages"]) - known
        if missing:
            raise ValueError(f"{where}: no such pages {sorted(missing)}")
        if row["topic"] not in TOPICS:
            raise ValueError(f"{where}: topic {row['topic']!r} is not one of {TOPICS}")
        turns = tuple(Turn(**_fields(turn, ("role", "text"), where)) for turn in row["turns"])
        roles = [turn.role for turn in turns]
        if len(turns) % 2 or roles != ["customer", "assistant"] * (len(turns) // 2):
            raise ValueError(f"{where}: roles {roles}, expected customer and assistant in turn")
        dialogues.append(Dialogue(row["id"], turns, row["topic"], tuple(row["pages"])))
    return tuple(dialogues)


def _preferences(folder: Traversable) -> tuple[Preference, ...]:
    pairs = tuple(
        Preference(**row) for row in _counted(folder, "preferences", PREFERENCE, PREFERENCES)
    )
    same = [pair.id for pair in pairs if pair.chosen == pair.rejected]
    if same:
        raise ValueError(
            f"{folder.name}/preferences.jsonl: chosen and rejected are the same in {same}"
        )
    return pairs


def _disjoint(tenant: WorldTenant) -> None:
    """No held-out question or answer stands in the training part, and no id is used in two files."""
    train = [(d.id, d.question, d.answer) for d in tenant.onboarding]
    train += [(p.id, p.question, p.chosen) for p in tenant.preferences]
    for what, column in {"id": 0, "question": 1, "answer": 2}.items():
        held = {(d.id, d.question, d.answer)[column].casefold() for d in tenant.heldout}
        both = held & {row[column].casefold() for row in train}
        if both:
            raise ValueError(f"{tenant.key}: held-out {what} also in training: {sorted(both)[:3]}")

"""Names of people and items as cells give them: nothing is cast before it is looked at, and 0 is a name.

Two names are the same where their characters are. Those that differ in Unicode form alone ("é" as one character or as
two) are kept apart, and it is said.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from jaxrec.words import without_halves

# How tables write that there is no value. As the id of a person they would make one of all who have none.
MISSING = frozenset(
    [
        "",
        "NA",
        "N/A",
        "NaN",
        "nan",
        "null",
        "NULL",
        "None",
        "\\N",
        "<NA>",
        "<null>",
        "(null)",
        "#N/A",
    ]
)
BROKEN = "an id with half a character or a byte that is no text"
_LONE = re.compile("[\ud800-\udfff]")


def identity(value: Any) -> str:
    """The name that a cell gives, "" where it gives none; whole floats lose their ".0" (pandas adds it).

    Raises ValueError for what can be no name: a list, a dict, half a character.
    """
    if isinstance(value, str):
        name = value.strip()
        if broken(name):
            raise ValueError(BROKEN)
        return "" if name in MISSING else name
    if value is None:
        return ""
    if isinstance(value, float):
        if value != value:
            return ""
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, list | tuple | dict | set):
        raise ValueError("an id that is no single value")
    if isinstance(value, bytes):
        return identity(value.decode("utf-8", "surrogateescape"))
    return str(value).strip()


def broken(text: str) -> bool:
    """Whether a text holds half a character, or a byte that is no text."""
    return not text.isascii() and _LONE.search(text) is not None


def prose(value: Any) -> str:
    """A text whose lone halves of characters became U+FFFD; "" where there is none."""
    if value is None or value != value:
        return ""
    if isinstance(value, list | tuple):
        return " ".join(filter(None, map(prose, value)))
    return without_halves(str(value))


def alike(names: Iterable[str]) -> int:
    """How many names are another one's but for their Unicode form."""
    beyond = [name for name in names if not name.isascii()]
    return len(beyond) - len({unicodedata.normalize("NFC", name) for name in beyond})


def loose(name: str) -> str:
    """A name as a spreadsheet or pandas may have changed it: composed, without ".0" and leading zeros."""
    name = unicodedata.normalize("NFC", name).strip()
    if re.fullmatch(r"\d+\.0", name):
        name = name[:-2]
    return name.lstrip("0") or "0" if name.isdecimal() else name

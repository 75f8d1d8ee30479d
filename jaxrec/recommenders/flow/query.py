"""Floor 4: what of a query an encoder can read: its length, its script, whether there is a word in it at all."""

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple


class Query(NamedTuple):
    """The text to encode ("" where nothing can be read), and what was done to it, in sentences.

    words: by what it is sought in place of a vector.
    """

    text: str
    notes: tuple[str, ...] = ()
    words: str = ""


def read_query(text: str, scripts: Sequence[str] = ("LATIN",), longest: int = 2_000) -> Query:
    """Cuts a query at `longest` characters and leaves out the words in scripts that the encoder does not know.

    scripts: Unicode's names, such as LATIN, CYRILLIC, CJK, ARABIC; none: the encoder knows all. An English encoder
    gives a vector for a Chinese question too, but one that lies nowhere near what was asked: better none, and said.
    """
    notes: list[str] = []
    words = text[:longest].split()
    if len(text) > longest:
        if len(words) > 1 and not text[longest - 1 : longest + 1].isspace():
            words.pop()  # it may be cut through
        notes.append(f"the query has {len(text):,} characters, the first {longest:,} are read")
    known = [word for word in words if not scripts or _scripts_of(word) <= set(scripts)]
    foreign = sorted({script for word in words for script in _scripts_of(word)} - set(scripts))
    if scripts and foreign:
        told = (
            f"the encoder reads {', '.join(scripts)} only; left out: words in {', '.join(foreign)}"
        )
        notes.append(told)
    read = " ".join(known)
    if not any(letter.isalnum() for letter in read):
        if text.strip() and not foreign:
            notes.append("there is no word in the query")
        read = ""
    return Query(read, tuple(notes))


def _scripts_of(word: str) -> set[str]:
    """The scripts of a word's letters; digits and signs belong to all."""
    return {
        unicodedata.name(letter, "UNKNOWN").split()[0].split("-")[0]
        for letter in word
        if letter.isalpha()
    }

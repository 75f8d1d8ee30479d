"""Floor 1: the words of a text in any script, and texts that were cut in the middle of a character.

A word is a run of letters with the marks that belong to them: in Hindi, Tamil, Telugu, Thai, Hebrew, Arabic and in
decomposed accents a mark is part of its letter, though Python's `re` ends a word at it (its `\\w` leaves marks out).
The joiners between two letters belong to a word too (Persian, Malayalam), the signs that choose how an emoji is drawn
do not.
"""

import unicodedata

import regex

_MARK = r"[\p{Mn}\p{Mc}--[\ufe00-\ufe0f]]"
_HALF = regex.compile("[\ud800-\udfff]")
_JOINED = r"[\u200c\u200d](?=[\p{L}])"
_LETTERS = regex.compile(
    rf"[\p{{L}}\p{{Nl}}\p{{No}}](?:[\p{{L}}\p{{Nl}}\p{{No}}]|{_MARK}|{_JOINED})*", regex.V1
)
_LETTERS_AND_DIGITS = regex.compile(
    rf"[\p{{L}}\p{{N}}](?:[\p{{L}}\p{{N}}]|{_MARK}|{_JOINED})*", regex.V1
)


def lower(text: str) -> str:
    """Lower case in composed form (NFC), so that an accent is the same written as one character or as two.

    The Turkish capital dotted I becomes a plain i: Python gives it a dot of its own, which no other word has.
    """
    return unicodedata.normalize("NFC", text).replace("İ", "i").lower()


def without_halves(text: str) -> str:
    """U+FFFD in place of each lone surrogate: JSON holds them where an emoji was cut, and no encoder takes them."""
    return _HALF.sub("\ufffd", text)


def words(text: str, digits: bool = True) -> list[str]:
    """Lower case, in order; an underscore, an apostrophe and a hyphen end a word.

    digits: whether they belong to words ("a4" is one); without, they end them.
    """
    return (_LETTERS_AND_DIGITS if digits else _LETTERS).findall(lower(text))

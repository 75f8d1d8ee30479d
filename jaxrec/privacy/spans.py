"""Floor 3: pieces of a text that say who somebody is, and how finders that disagree are made into one answer."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

from jaxrec.config import RunError

# What a piece of text can be, in the order in which one that is several things at once is named.
KINDS = (
    "EMAIL",
    "CARD",
    "ACCOUNT",
    "PASSPORT",
    "SNILS",
    "INN",
    "OGRN",
    "SSN",
    "PHONE",
    "IP",
    "ADDRESS",
    "NAME",
    "PLACE",
    "TEXT",  # whatever looks like a placeholder and is none of ours
)
NUMBERS = ("EMAIL", "CARD", "ACCOUNT", "PASSPORT", "SNILS", "INN", "OGRN", "SSN", "PHONE", "IP")
WINDOW = 8_000  # characters that finders read at a time
OVERLAP = 300  # characters that two windows share: nothing that is looked for is longer


class PrivacyError(RunError):
    """What keeps texts from being masked, or a person from being forgotten."""


@dataclasses.dataclass(frozen=True)
class Span:
    """text[start:end], and which of KINDS it is."""

    start: int
    end: int
    kind: str


Find = Callable[[str], Sequence[Span]]


def merged(spans: Iterable[Span]) -> list[Span]:
    """Spans in order that don't overlap: those that did are one over all of them, of the kind that is first in KINDS.

    The union, not the best: whatever any finder took for private is covered, to the last character.
    """
    found: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.start, -s.end)):
        if found and span.start < found[-1].end:
            last = found.pop()
            kind = min(last.kind, span.kind, key=KINDS.index)
            span = Span(last.start, max(last.end, span.end), kind)
        found.append(span)
    return found


def windows(text: str) -> Iterator[tuple[int, str]]:
    """(offset, part) of a text of any length; parts overlap, so that nothing private is only ever seen cut in two."""
    start = 0
    while True:
        yield start, text[start : start + WINDOW]
        if start + WINDOW >= len(text):
            return
        start += WINDOW - OVERLAP


def over_windows(find: Find, text: str) -> list[Span]:
    """What `find` finds in a text of any length, merged, without white space at the ends."""
    found = []
    for offset, part in windows(text):
        for span in find(part):
            inside = part[span.start : span.end]
            start = offset + span.start + len(inside) - len(inside.lstrip())
            end = offset + span.start + len(inside.rstrip())
            if start < end:
                found.append(Span(start, end, span.kind))
    return merged(found)


# Characters that people's keyboards and word processors put in place of others, one for one: offsets stay.
_PLAIN = (
    {code: " " for code in (0xA0, 0x2007, 0x2009, 0x202F, 0x3000, 0x09)}
    | {code: "-" for code in (0x2010, 0x2011, 0x2012, 0x2013, 0x2014, 0x2212)}
    | {0xFF10 + digit: str(digit) for digit in range(10)}
    | {0x0660 + digit: str(digit) for digit in range(10)}
    | {0xFF20: "@", 0x2019: "'"}
    | {
        code: "\ufffd" for code in range(0xD800, 0xE000)
    }  # halves of broken UTF-16, which taggers can't encode
)


def plain(text: str) -> str:
    """The text as finders read it: other spaces, dashes and digits as the usual ones; every offset is what it was."""
    return text.translate(_PLAIN)

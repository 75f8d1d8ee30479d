"""Floor 2: documents to passages: first by headings, then by whole paragraphs and sentences up to a size.

    # Delivery            -> the path ("Delivery", "Abroad") goes with the passage, and is no part of its body
    ## Abroad
    Ten days. Customs     -> one body, text[start:end]
    are yours.

Nothing is left out and nothing stands in two passages. A block of code stays whole whatever its length, and so does a
word; apart from these no passage is longer than the limit. A passage below the least length is one that fits to
neither of its neighbours.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import regex

from jaxrec.retrieval.passages.document import Document, Passage
from jaxrec.retrieval.top_k import SearchError

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

# Behind a sentence stand white space and something that can begin one; Chinese and Japanese write without spaces.
_SENTENCE = regex.compile(
    r"""(?<=[.!?…]["'”’»)\]]*)\s+(?=["'“‘«(\[]*[\p{Lu}\p{Lo}\p{N}])|(?<=[。！？]["'”’»）」』]*)(?=\S)"""
)
_PARAGRAPH = regex.compile(r"(?:\r\n|\r|\n)[ \t]*(?:(?:\r\n|\r|\n)[ \t]*)+")
_LINE = regex.compile(r"\r\n|\r|\n")
_GAP = regex.compile(r"\s+")


@dataclasses.dataclass(frozen=True)
class CutConfig:
    """How long passages are, in characters of their bodies."""

    least: int = 80  # shorter ones join a neighbour, where both fit into `most`
    most: int = 900  # some 200 tokens: MiniLM reads 256

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most or self.most < 1:
            raise SearchError(f"passages of {self.least} to {self.most} characters: not possible")


class _Unit(NamedTuple):
    """A stretch of text that is not cut further."""

    start: int
    end: int


class _Piece(NamedTuple):
    """A passage in the making. opening: where the heading begins that stands directly above it, else `start`."""

    start: int
    end: int
    headings: tuple[str, ...]
    opening: int


class _Section(NamedTuple):
    headings: tuple[str, ...]
    opening: int
    units: list[_Unit]


def passages_of(document: Document, cfg: CutConfig | None = None) -> list[Passage]:
    """The passages of a document in their order; none of one without a visible character."""
    cfg = cfg or CutConfig()
    text = document.text
    sections, title = (_markdown if document.kind == "markdown" else _plain)(text, cfg.most)
    pieces = [piece for section in sections for piece in _packed(section, cfg.most)]
    title = document.title or title
    return [
        Passage(document.id, i, p.start, p.end, text[p.start : p.end], title, p.headings)
        for i, p in enumerate(_joined(pieces, cfg))
    ]


# ------------------------------------------------------------------------------------------ structure


def _plain(text: str, most: int) -> tuple[list[_Section], str]:
    return [_Section((), 0, list(_units(text, 0, len(text), most)))], ""


def _markdown(text: str, most: int) -> tuple[list[_Section], str]:
    """The sections of a text, and its title: the first heading of the highest level that occurs."""
    starts = [0, *(m.end() for m in _LINE.finditer(text)), len(text)]
    at = lambda line: starts[min(line, len(starts) - 1)]
    path: list[tuple[int, str]] = []
    sections, title, top, done = [_Section((), 0, [])], "", 7, 0
    for block, content in _blocks(text):
        start, end = map(at, block.map)
        # Definitions of links are no blocks, yet somebody wrote them.
        sections[-1].units.extend(_units(text, done, start, most))
        done = end
        if block.type != "heading_open":
            sections[-1].units.extend(_block_units(text, start, end, _marks(block, at), most))
            continue
        level = int(block.tag[1])
        path = [(above, said) for above, said in path if above < level]
        path.append((level, " ".join(content.split())))
        if level < top:
            title, top = path[-1][1], level
        # A heading that nothing follows, not even a deeper one, is all that its section says.
        sections.append(_Section(tuple(said for _, said in path), start, []))
        sections[-1].units.append(_Unit(*_trimmed(text, start, end)))
    sections[-1].units.extend(_units(text, done, len(text), most))
    return list(_without_headings(sections)), title


def _without_headings(sections: list[_Section]) -> Iterator[_Section]:
    """Sections without their heading's own unit, unless it is all that they and their subsections hold."""
    for section, after in zip(sections, [*sections[1:], None], strict=True):
        depth = len(section.headings)
        below = after is not None and len(after.headings) > depth
        above = below and after.headings[:depth] == section.headings
        if depth and (len(section.units) > 1 or above):
            del section.units[0]
        if section.units:
            yield section


class _Block(NamedTuple):
    """A block of the outermost level; inner: the line ranges of code (atomic) and the first lines of list items."""

    type: str
    tag: str
    map: tuple[int, int]
    code: list[tuple[int, int]]
    breaks: list[int]


def _blocks(text: str) -> Iterator[tuple[_Block, str]]:
    """The blocks of the outermost level with what a heading says."""
    block, content = None, ""
    for token in _parser().parse(text):
        if token.map is None:
            continue
        if token.level == 0:
            if block is not None:
                yield block, content
            block, content = _Block(token.type, token.tag, tuple(token.map), [], []), ""
        if block is None:
            continue
        if token.type in ("fence", "code_block"):
            block.code.append(tuple(token.map))
        elif token.type in ("list_item_open", "tr_open", "paragraph_open", "heading_open"):
            block.breaks.append(token.map[0])
        elif token.type == "inline" and not content:
            content = token.content
    if block is not None:
        yield block, content


@functools.cache
def _parser() -> "MarkdownIt":
    try:
        from markdown_it import MarkdownIt
    except ImportError:
        raise SearchError(
            "Markdown needs markdown-it-py: pip install 'jaxrec[talk]', or call the document plain"
        ) from None
    # Blocks alone are wanted; what stands inside of a line is text to us.
    return MarkdownIt("commonmark").enable("table").disable("inline")


def _marks(block: _Block, at: Callable[[int], int]) -> tuple[list[tuple[int, int]], list[int]]:
    return [(at(a), at(b)) for a, b in block.code], [at(line) for line in block.breaks]


# ------------------------------------------------------------------------------------------ units


def _block_units(
    text: str, start: int, end: int, marks: tuple[list[tuple[int, int]], list[int]], most: int
) -> Iterator[_Unit]:
    """The units of a block: code whole, everything else by its items, lines of tables, sentences."""
    code, breaks = marks
    at = start
    for first, last in [*code, (end, end)]:
        edges = sorted({at, first, *(b for b in breaks if at < b < first)})
        for a, b in itertools.pairwise(edges):
            yield from _units(text, a, b, most)
        first, last = _trimmed(text, first, last)
        if first < last:
            yield _Unit(first, last)
        at = max(at, last)


def _units(text: str, start: int, end: int, most: int) -> Iterator[_Unit]:
    """Paragraphs; those longer than `most` by sentences, and such sentences between words."""
    for a, b in _cut_at(_PARAGRAPH, text, start, end):
        if b - a <= most:
            yield _Unit(a, b)
            continue
        for c, d in _cut_at(_SENTENCE, text, a, b):
            yield from _words(text, c, d, most)


def _cut_at(gap: "regex.Pattern", text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    at = start
    for found in gap.finditer(text, start, end):
        if at < found.start():
            yield from _visible(text, at, found.start())
        at = found.end()
    yield from _visible(text, at, end)


def _words(text: str, start: int, end: int, most: int) -> Iterator[_Unit]:
    while end - start > most:
        # The last gap that leaves a piece which fits; else the first one there is: a word stays whole.
        gaps = [m for m in _GAP.finditer(text, start, min(start + most + 1, end))]
        gap = gaps[-1] if gaps else _GAP.search(text, start, end)
        if gap is None:
            break
        whole = _GAP.match(text, gap.start(), end)
        yield _Unit(start, gap.start())
        start = whole.end()
    yield from (_Unit(*span) for span in _visible(text, start, end))


def _visible(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    start, end = _trimmed(text, start, end)
    if start < end:
        yield start, end


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Without the white space at both ends."""
    body = text[start:end]
    return start + len(body) - len(body.lstrip()), end - len(body) + len(body.rstrip())


# ------------------------------------------------------------------------------------------ pieces


def _packed(section: _Section, most: int) -> Iterator[_Piece]:
    """The units of a section, as many together as fit."""
    open_: _Unit | None = None
    opening = section.opening
    for unit in section.units:
        if open_ is not None and unit.end - open_.start <= most:
            open_ = _Unit(open_.start, unit.end)
            continue
        if open_ is not None:
            yield _Piece(*open_, section.headings, min(opening, open_.start))
            opening = unit.start
        open_ = unit
    if open_ is not None:
        yield _Piece(*open_, section.headings, min(opening, open_.start))


def _joined(pieces: Sequence[_Piece], cfg: CutConfig) -> list[_Piece]:
    """Pieces below the least length joined to a neighbour: the one before, else the one behind."""
    done: list[_Piece] = []
    for piece in pieces:
        if done and _short(done[-1], piece, cfg):
            both = _together(done[-1], piece)
            if both.end - both.start <= cfg.most:
                done[-1] = both
                continue
        done.append(piece)
    return done


def _short(one: _Piece, other: _Piece, cfg: CutConfig) -> bool:
    return min(one.end - one.start, other.end - other.start) < cfg.least


def _together(one: _Piece, other: _Piece) -> _Piece:
    """Both as one. What their paths do not share stays in the body: it begins with the first one's own heading."""
    shared = 0
    for a, b in zip(one.headings, other.headings, strict=False):
        if a != b:
            break
        shared += 1
    lost = shared < len(one.headings)
    return _Piece(one.opening if lost else one.start, other.end, one.headings[:shared], one.opening)

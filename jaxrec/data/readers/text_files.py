"""Text files as people have them: gzipped or not, in whichever encoding, and never two names made one by it.

UTF-8, and UTF-16 or UTF-32 by their mark, are read as what they are. Bytes that are not UTF-8 are taken to be in the
encoding that they look like: Windows-1252 (or Latin-1) where accents stand alone among ASCII letters, else what
`charset-normalizer` finds (Cyrillic, Chinese, Japanese, Korean, Greek, Hebrew, Arabic). Such a guess is said, and
`data.encoding` settles it. A stray byte in a file that is UTF-8 otherwise becomes a lone surrogate, which
`names.identity` refuses in an id and `names.prose` shows as U+FFFD in a text.
"""

import codecs
import csv
import functools
import gzip
import io
import json
import re
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxrec.data.readers.raw import DataError, Problems

HEAD = 1 << 26  # bytes in which one looks for what is not UTF-8
SAMPLE = 1 << 17  # of the bytes that are not, how many tell the encoding
CELL_LIMIT = 1 << 30  # characters that one cell of a CSV may hold
ROW_LINES = 2000  # lines that one row of a CSV may have
WESTERN = 0.4  # at most this share of the high bytes stands beside another one
NOT_WESTERN = "cp1251 koi8_r cp866 gb18030 big5 shift_jis euc_jp euc_kr cp1253 cp1255 cp1256"
PACKED = {
    b"PK\x03\x04": "a zip archive or an Excel workbook: unpack it, or save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save the sheet as CSV",
    b"BZh": "packed by bzip2: unpack it, or pack it by gzip",
    b"\xfd7zXZ": "packed by xz: unpack it, or pack it by gzip",
    b"\x28\xb5\x2f\xfd": "packed by zstd: unpack it, or pack it by gzip",
    b"SQLite format 3": "an SQLite database: export the table as CSV",
}


def lines(path: Path, problems: Problems | None = None) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers from 1, in `problems.encoding` or as it looks.

    Raises DataError where the file is cut short or no text.
    """
    with _open(path) as file:
        text = io.TextIOWrapper(file, codec(path, problems), "surrogateescape", newline=None)
        yield from enumerate(_whole(path, text), 1)


def records(
    path: Path, delimiter: str = ",", problems: Problems | None = None
) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV (quoted cells may hold line ends) with the number of the line where each ends.

    A quote that does not close would swallow the rows after it: where the row that it makes has another width than the
    first, or is none by the strict rules, its first line stands alone (as one cell) and the others are read again.
    """
    csv.field_size_limit(CELL_LIMIT)
    with _open(path) as file:
        text = io.TextIOWrapper(file, codec(path, problems), "surrogateescape", newline="")
        source = _Lines(text)
        rules: dict[str, Any] = {"delimiter": delimiter, "quoting": csv.QUOTE_MINIMAL}
        if _escapes(path):
            rules |= {"escapechar": "\\", "doublequote": False}
        reader, width = csv.reader(source, **rules), 0
        for row in _whole(path, _until_the_end(reader, source)):
            width = width or len(row)
            if len(source.taken) > 1 and not _sound(row, width, source, rules):
                yield source.number - len(source.taken) + 1, [source.again()]
            else:
                yield source.number, row
            source.taken.clear()


class _Lines:
    """The lines of a text, of which those of the last row can be given again."""

    def __init__(self, text: Iterator[str]):
        self.text, self.back, self.taken = text, deque[str](), list[str]()
        self.number, self.ended = 0, False

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if len(self.taken) >= ROW_LINES:
            raise StopIteration
        try:
            line = self.back.popleft() if self.back else next(self.text)
        except StopIteration:
            self.ended = True
            raise
        self.number += 1
        self.taken.append(line)
        return line

    def again(self) -> str:
        """Puts all lines of the row but the first back, and gives the first."""
        first, *others = self.taken
        self.back.extendleft(reversed(others))
        self.number -= len(others)
        self.ended = False
        return first


def _until_the_end(reader: Any, source: _Lines) -> Iterator[list[str]]:
    while True:
        yield from reader
        if source.ended:
            return


def _sound(row: list[str], width: int, source: _Lines, rules: dict[str, Any]) -> bool:
    if len(row) != width or len(source.taken) >= ROW_LINES:
        return False
    try:
        return len(list(csv.reader(source.taken, strict=True, **rules))) == 1
    except csv.Error:
        return False


def read_json(path: Path) -> Any:
    """A JSON file, gzipped or not. Raises DataError where it isn't one."""
    try:
        return json.loads("".join(line for _, line in lines(path)))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON: {error}") from None


def stem(path: Path) -> str:
    """The name without .gz."""
    return path.name.removesuffix(".gz")


def beside(folder: Path, *names: str) -> Path | None:
    """The first of some files that is in a folder, gzipped or not."""
    for name in names:
        for there in (folder / name, folder / f"{name}.gz"):
            if there.is_file():
                return there
    return None


def codec(path: Path, problems: Problems | None = None) -> str:
    """The name of the encoding that a file is read in; `problems` is told where it is a guess."""
    if problems is not None and problems.encoding:
        try:
            return codecs.lookup(problems.encoding).name
        except LookupError:
            raise DataError(f"data.encoding: there is no encoding {problems.encoding!r}") from None
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    name, why = _look(path, state.st_size, state.st_mtime_ns)
    if why and problems is not None:
        problems.say(f"{path.name}: {why}")
    return name


@functools.lru_cache(256)
def _look(path: Path, size: int, changed: int) -> tuple[str, str]:
    """The encoding and, where it is a guess, the sentence that says so."""
    with _open(path) as file:
        head = b"".join(
            _whole(path, iter(lambda: file.read(1 << 20) if file.tell() < HEAD else b"", b""))
        )
    for start, what in PACKED.items():
        if head.startswith(start):
            raise DataError(f"{path}: {what}")
    if re.match(rb"\x80[\x02-\x05]", head):
        raise DataError(f"{path}: a pickle, which may run any code: save it as CSV or Parquet")
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8-sig", ""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32", ""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16", ""
    zeros = head[:4096].count(0)
    if zeros > len(head[:4096]) / 4:
        name = "utf-16-be" if head[0:4096:2].count(0) > zeros / 2 else "utf-16-le"
        return name, f"holds zero bytes: read as {name} (data.encoding settles it)"
    if len(re.findall(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", head[:4096])) > len(head[:4096]) / 50:
        raise DataError(f"{path}: not a text file")
    if head.isascii():
        return "utf-8", ""
    bad, good = _not_utf8(head)
    if not bad:
        return "utf-8", ""
    if good > bad:
        return (
            "utf-8",
            f"{bad:,} bytes are not UTF-8 though the rest is: rows named by them are left out",
        )
    name = _single(head)
    return name, f"not UTF-8: read as {name} (data.encoding settles it)"


@functools.lru_cache(256)
def _escapes(path: Path) -> bool:
    """Whether quotes within quoted cells stand after a backslash, as MySQL writes them, and are not doubled."""
    with _open(path) as file:
        head = file.read(HEAD)
    before = len(re.findall(rb'\\"(?![;,|\t\r\n])', head))
    return before > len(re.findall(rb'[^;,|\t\r\n"]""[^;,|\t\r\n"]', head))


def _not_utf8(data: bytes) -> tuple[int, int]:
    """How many bytes are not UTF-8, and how many characters beyond ASCII are."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    bad = beyond = 0
    for at in range(0, len(data), 1 << 20):
        part = data[at : at + (1 << 20)]
        text = decoder.decode(part, at + (1 << 20) >= len(data) and len(data) < HEAD)
        if not text.isascii():
            bad += len(re.findall("[\udc80-\udcff]", text))
            beyond += len(re.findall("[^\x00-\x7f]", text))
    return bad, beyond - bad


def _single(data: bytes) -> str:
    at = next(re.finditer(rb"[\x80-\xff]", data)).start()
    sample = data[max(0, at - SAMPLE // 4) :][:SAMPLE]
    runs = [len(run) for run in re.findall(rb"[\x80-\xff]+", sample)]
    if sum(run for run in runs if run > 1) > WESTERN * sum(runs):
        from charset_normalizer import from_bytes

        best = from_bytes(sample, cp_isolation=[*NOT_WESTERN.split(), "cp1252"]).best()
        if best is not None:
            return codecs.lookup(best.encoding).name
    undefined = re.search(rb"[\x81\x8d\x8f\x90\x9d]", data)
    return "latin-1" if undefined or not re.search(rb"[\x80-\x9f]", data) else "cp1252"


def _open(path: Path) -> Any:
    """The bytes of a file, unpacked where they begin as gzip does, whatever the name says."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        return gzip.open(path, "rb") if packed else path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None


def _whole(path: Path, rows: Any) -> Iterator[Any]:
    try:
        yield from rows
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged or cut short ({error}): fetch it again") from None
    except UnicodeError as error:
        raise DataError(f"{path}: not {getattr(error, 'encoding', 'text')}: {error}") from None
    except csv.Error as error:
        raise DataError(f"{path}:{rows.line_num}: not a CSV: {error}") from None

"""Explanations that come with a data set, people split once for all, and rows written in shards of constant memory.

A row is a dict of plain values; `prompt` and `completion` are what the tuning stages read, the other fields say what
the text is about, so that it can be judged later: rating, persona, keywords, title, category, features, user, item.
"""

import gzip
import hashlib
import html
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from jaxrec.config import RunError
from jaxrec.data.folder import dataset

PARTS = ("train", "valid", "test")
XREC = "xrec-amazon"
_FIELDS = ("uid", "iid", "title", "user_summary", "item_summary", "explanation")


class ExplanationError(RunError, ValueError):
    """Rows of explanations that can't be read or written, and what to change."""


class Explained(NamedTuple):
    """Why a person would take an item, with the profiles of both (XRec, Ma et al. 2024; written by GPT-3.5)."""

    user: str
    item: str
    title: str
    user_summary: str
    item_summary: str
    explanation: str


def part_of(user: str, valid: float = 0.1, test: float = 0.1) -> str:
    """ "train", "valid" or "test": where a person belongs, by the hash of their name, so whatever the file or order.

    valid, test: their shares. Raises ExplanationError where these leave nothing to train on.
    """
    if not (valid >= 0 and test >= 0 and valid + test < 1):
        raise ExplanationError(f"shares of {valid} and {test} leave no people to train on")
    digest = hashlib.blake2b(user.encode(), digest_size=8, person=b"jaxrec-part").digest()
    place = int.from_bytes(digest, "little") / 2**64
    return "test" if place < test else "valid" if place < test + valid else "train"


def read_explained(path: str | Path | None = None, part: str = "") -> Iterator[Explained]:
    """XRec's rows, of one part of the people or of all, from its folder under JAXREC_DATA or another .jsonl[.gz].

    Raises ExplanationError for a file without such rows, naming the line, and DataMissing without the data set.
    """
    if part not in ("", *PARTS):
        raise ExplanationError(f"part {part!r} is none of {', '.join(PARTS)}")
    path = dataset(XREC) / "explanations_test.jsonl.gz" if path is None else Path(path)
    for number, row in enumerate(read_rows(path), 1):
        missing = [name for name in _FIELDS if name not in row]
        if missing:
            raise ExplanationError(f"{path}:{number}: no field {missing[0]!r}")
        user = f"{XREC}:{row['uid']}"
        if not part or part_of(user) == part:
            texts = (html.unescape(str(row[name])).strip() for name in _FIELDS[2:])
            yield Explained(user, str(row["iid"]), *texts)


def read_rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl or .jsonl.gz file, one after the other. Raises ExplanationError naming the line."""
    path = Path(path)
    if not path.is_file():
        raise ExplanationError(f"there is no file {path}")
    opened = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opened(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):  # noqa: B007 - told in the error
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("a JSON object is expected")
                yield row
    except (ValueError, EOFError, gzip.BadGzipFile) as error:
        raise ExplanationError(f"{path}:{number}: not a row of JSON ({error})") from None


def digest(*texts: str) -> int:
    """8 bytes of the hash of several texts together."""
    whole = hashlib.blake2b("\x00".join(texts).encode(), digest_size=8).digest()
    return int.from_bytes(whole, "little")


class Distinct:
    """Remembers what was met by 8 bytes of its hash: `new(text)` is False from the second time on.

    Among n texts some two share a hash with a chance of n^2 / 2^65: one in thirty million at 1.1 million.
    """

    def __init__(self) -> None:
        self._met: set[int] = set()
        self.dropped = 0

    def new(self, *texts: str) -> bool:
        """Whether these texts come for the first time together; counted in `dropped` where not."""
        return self.add(digest(*texts))

    def add(self, number: int) -> bool:
        """As `new`, of texts of which this is the `digest`."""
        if number in self._met:
            self.dropped += 1
            return False
        self._met.add(number)
        return True

    def __len__(self) -> int:
        return len(self._met)


class Shards:
    """Writes rows to FOLDER/PART-00000.jsonl.gz, ...; `rows` a shard, one open file a part. A context manager.

    `count[part]` rows were written. A folder that holds other shards is refused: mixed runs would be read together.
    """

    def __init__(self, folder: str | Path, rows: int = 250_000):
        self.folder, self.rows = Path(folder), rows
        self.count: Counter[str] = Counter()
        self._open: dict[str, Any] = {}
        if rows < 1:
            raise ExplanationError(f"a shard holds at least one row, not {rows}")
        self.folder.mkdir(parents=True, exist_ok=True)
        if old := sorted(self.folder.glob("*.jsonl.gz")):
            raise ExplanationError(
                f"{self.folder} already holds {old[0].name}: name another folder"
            )

    def __enter__(self) -> "Shards":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._open.values():
            file.close()

    def write(self, part: str, row: dict[str, Any]) -> None:
        """One row at the end of a part."""
        self.write_line(part, json.dumps(row, ensure_ascii=False))

    def write_line(self, part: str, line: str) -> None:
        """One row that is JSON already, at the end of a part."""
        if self.count[part] % self.rows == 0:
            if part in self._open:
                self._open[part].close()
            path = self.folder / f"{part}-{self.count[part] // self.rows:05d}.jsonl.gz"
            # level 1: three times as fast as the default, a tenth longer
            self._open[part] = gzip.open(path, "wt", encoding="utf-8", compresslevel=1)
        self._open[part].write(line + "\n")
        self.count[part] += 1


def read_part(folder: str | Path, part: str) -> Iterator[dict[str, Any]]:
    """The rows of a part in order, whatever the number of shards. Raises ExplanationError where there is none."""
    shards = sorted(Path(folder).glob(f"{part}-*.jsonl.gz"))
    if not shards:
        raise ExplanationError(f"{folder} holds no {part}-*.jsonl.gz: make it by instruction_pairs")
    for path in shards:
        yield from read_rows(path)


def write_arrow(folder: str | Path, out: str | Path, part: str = "train") -> int:
    """The rows of a part as one Arrow IPC file, block by block; how many. Memory-mapped readers take it from there."""
    import pyarrow as pa

    blocks = _blocks(read_part(folder, part), 10_000)
    first = pa.RecordBatch.from_pylist(next(blocks))
    # a column that the first block leaves empty would have no type
    schema = pa.schema(
        [(f.name, pa.float64() if f.name == "rating" else f.type) for f in first.schema]
    )
    total = 0
    with pa.OSFile(str(out), "wb") as sink, pa.ipc.new_file(sink, schema) as file:
        for block in _blocks(read_part(folder, part), 10_000):
            file.write_batch(pa.RecordBatch.from_pylist(block, schema))
            total += len(block)
    return total


def _blocks(rows: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    block: list[dict[str, Any]] = []
    for row in rows:
        block.append(row)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block

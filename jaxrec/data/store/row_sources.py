"""What a store is made of: sources of rows, cut into blocks of a fixed size, each of which becomes a shard.

    chats.jsonl, notes/, world, sgd ...     the project's own sources, as the stages read them
    data.parquet, a folder of .parquet,     through `datasets`, streamed: nothing is copied into a cache
    .arrow, .csv or a saved Dataset
    hf:OWNER/NAME[/CONFIG][:SPLIT][@REV]    a data set of the hub, streamed too; SPLIT is train where none is named

A block that another process takes, or that is there already, is passed over: of tables without a Python object.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxrec.config import RunError
from jaxrec.data import corpus, instructions

_TABLES = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".tsv": "csv"}
_HUB = re.compile(
    r"hf:(?P<id>[^/:@]+/[^/:@]+)(/(?P<config>[^:@]+))?(:(?P<split>[^@]+))?(@(?P<rev>.+))?"
)
PlacedRows = list[tuple[str, Any]]  # ("FILE:LINE", the row)


class SourceError(RunError, ValueError):
    """A source that cannot be opened or read."""


@dataclasses.dataclass(frozen=True)
class Block:
    """Some rows of a source in a row; `rows` reads them."""

    number: int
    rows: Callable[[], PlacedRows]


def blocks(sources: tuple[str, ...], kind: str, size: int) -> Iterator[Block]:
    """All blocks of the sources, one source after the other; none holds rows of two.

    sources: names. kind: texts, chats, pairs or histories: which of the project's own sources are meant. size: rows of
    a block; the last one of a source has fewer. Raises SourceError, or what the project's own readers raise.
    """
    number = 0
    for source in sources:
        for rows in _tables(source, size) if is_table(source) else _own(source, kind, size):
            yield Block(number, rows)
            number += 1


def is_table(source: str) -> bool:
    """Whether `datasets` reads it."""
    if source.startswith("hf:"):
        return True
    path = Path(source)
    if path.is_dir():
        return (path / "dataset_info.json").is_file() or bool(_files(path))
    return path.suffix in _TABLES


def about(sources: tuple[str, ...]) -> dict[str, Any]:
    """The names, and of local files their sizes: what a part that is started later has to find again."""
    files = [path for source in sources for path in _local(Path(source))]
    return {"names": list(sources), "files": {path.name: path.stat().st_size for path in files}}


def _local(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else []


def _files(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix in _TABLES and path.is_file())
    kinds = sorted({path.suffix for path in found})
    if len(kinds) > 1:
        raise SourceError(f"{folder} holds {' and '.join(kinds)}: name the files of one kind")
    return found


def _own(source: str, kind: str, size: int) -> Iterator[Callable[[], PlacedRows]]:
    rows = _own_rows(source, kind)
    while block := list(itertools.islice(rows, size)):
        yield lambda block=block: block


def _own_rows(source: str, kind: str) -> Iterator[tuple[str, Any]]:
    if kind == "texts":
        return ((f"{source}[{n}]", d) for n, d in enumerate(corpus.documents_of(source)))
    if kind == "chats":
        return instructions.source_rows(source)
    if kind == "pairs":
        from jaxrec.data import pairs

        return pairs.source_rows(source)
    return instructions.json_lines(Path(source))


def _tables(source: str, size: int) -> Iterator[Callable[[], PlacedRows]]:
    """Blocks of a `datasets` source as Arrow tables, of which Python objects are made only when they are asked for."""
    try:
        tables = _opened(source).with_format("arrow").iter(batch_size=size)
        for number, table in enumerate(tables):
            named = lambda table=table, start=number * size: [
                (f"{source}[{start + n}]", row) for n, row in enumerate(_rows_of(table))
            ]
            yield named
    except RunError:
        raise
    except Exception as error:  # the library raises a dozen kinds, of its own and of those below it
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SourceError(f"{source} cannot be read: {first[:300]}") from error


def _rows_of(table: Any) -> list[dict[str, Any]]:
    """An Arrow table's rows as objects; lists of numbers stay arrays, as a million people have hundreds of millions."""
    import pyarrow as pa

    columns = []
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        kind = column.type
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        if lists and not column.null_count and _is_number(kind.value_type):
            values = column.values.to_numpy(zero_copy_only=False)
            ends = column.offsets.to_numpy()
            columns.append([values[a:b] for a, b in itertools.pairwise(ends)])
        else:
            columns.append(column.to_pylist())
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _opened(source: str) -> Any:
    import datasets

    datasets.disable_progress_bars()
    if source.startswith("hf:"):
        found = _HUB.fullmatch(source)
        if found is None:
            raise SourceError(
                f"{source!r} is not of the form hf:OWNER/NAME[/CONFIG][:SPLIT][@REVISION]"
            )
        return datasets.load_dataset(
            found["id"], found["config"], split=found["split"] or "train", revision=found["rev"], streaming=True
        )  # fmt: skip
    path = Path(source)
    if (path / "dataset_info.json").is_file():
        return datasets.load_from_disk(str(path)).to_iterable_dataset()
    files = _files(path) if path.is_dir() else [path]
    if not all(file.is_file() for file in files):
        raise SourceError(f"there is no file {source}")
    suffix = files[0].suffix
    more = {"sep": "\t"} if suffix == ".tsv" else {}
    names = [str(file) for file in files]
    return datasets.load_dataset(
        _TABLES[suffix], data_files=names, split="train", streaming=True, **more
    )

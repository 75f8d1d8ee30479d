"""Floor 2: reviews out of Arrow data, in batches: tables, streams, `datasets`, files. Text is read and let go.

for review in reviews("reviews.parquet", Columns(user="reviewerID", item="asin")): ...
"""

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jaxrec.config import RunError
from jaxrec.data.readers.names import identity, prose
from jaxrec.data.readers.times import number, seconds

_log = logging.getLogger(__name__)

BATCH = 8192


class ReviewsError(RunError, ValueError):
    """Reviews that can't be read, and what to change."""


@dataclasses.dataclass(frozen=True)
class ReviewColumns:
    """Names of columns. `user` and `item` must be there; the others are used where they are.

    time: Unix seconds (milli-, micro- and nanoseconds are told by their size), an Arrow timestamp or date, or a date as
    text. category: a string or a list of strings. text: one or more columns that are joined, a title and a body say.
    """

    user: str = "user"
    item: str = "item"
    rating: str = "rating"
    time: str = "time"
    category: str = "category"
    text: tuple[str, ...] = ("text",)


class Review(NamedTuple):
    """One event of a person; what is not known is None."""

    user: str
    item: str
    rating: float | None = None
    time: int | None = None
    category: tuple[str, ...] = ()
    text: str | None = None


def reviews(
    source: Any, columns: ReviewColumns = ReviewColumns(), batch: int = BATCH
) -> Iterator[Review]:
    """Every review of `source`, in its order; no more than `batch` rows of it are held at once.

    source: a pyarrow Table, RecordBatchReader or iterable of batches, a `datasets` Dataset or IterableDataset, or the
    path of a Parquet or Arrow (Feather) file. A review without a user or an item is left out, a rating or a time that
    is none counts as unknown; how many there were is logged. Raises ReviewsError for a missing column, or a source that
    can't be read.
    """
    problems: Counter[str] = Counter()
    for part in parts(source, batch):
        yield from rows(part, columns, problems)
    say(problems)


def say(problems: Counter[str]) -> None:
    """Logs what was left out or unknown, and how often."""
    for why, count in problems.items():
        _log.warning("%s in %d of the reviews", why, count)


def parts(source: Any, batch: int = BATCH) -> Iterator[Any]:
    """What `reviews` takes as Arrow batches of at most so many rows. Raises ReviewsError where it can't be read."""
    import pyarrow as pa

    if isinstance(source, str | Path):
        yield from _file_parts(Path(source), batch)
    elif isinstance(source, pa.Table):
        yield from source.to_batches(max_chunksize=batch)
    elif hasattr(source, "with_format"):  # datasets: a table of its own, or a stream
        yield from source.with_format("arrow").iter(batch_size=batch)
    elif isinstance(source, Iterable):
        yield from source
    else:
        raise ReviewsError(f"a {type(source).__name__} holds no Arrow data: give a table or a path")


def _file_parts(path: Path, batch: int) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import ipc, parquet

    if not path.is_file():
        raise ReviewsError(f"no such file: {path}")
    try:
        if path.suffix == ".parquet":
            with parquet.ParquetFile(path) as file:
                yield from file.iter_batches(batch_size=batch)
        else:
            with pa.memory_map(str(path)) as raw, ipc.open_file(raw) as file:
                for i in range(file.num_record_batches):
                    yield file.get_batch(i)
    except pa.ArrowInvalid as error:
        raise ReviewsError(f"{path} is neither Parquet nor an Arrow file: {error}") from None


def rows(part: Any, columns: ReviewColumns, problems: Counter[str]) -> Iterator[Review]:
    """The reviews of one Arrow batch; what is wrong with others is counted. Raises ReviewsError without a column."""
    import pyarrow as pa

    there = part.schema.names
    for name in (columns.user, columns.item):
        if name not in there:
            raise ReviewsError(f"there is no column {name!r}; the columns are {there}: set Columns")
    nothing = [None] * part.num_rows

    def values(name: str) -> list:
        if name not in there:
            return nothing
        column = part.column(name)
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("s", column.type.tz), safe=False)
        return column.to_pylist()

    texts = [values(name) for name in columns.text if name in there]
    for row, (user, item, rating, time, category) in enumerate(
        zip(
            *map(values, (columns.user, columns.item)),
            *map(values, (columns.rating, columns.time, columns.category)),
            strict=True,
        )
    ):
        try:
            names = identity(user), identity(item)
        except ValueError:
            names = ("", "")
        if not all(names):
            problems[f"no {columns.user} or no {columns.item}: left out"] += 1
            continue
        said = [text for column in texts if (text := prose(column[row]).strip())]
        kinds = (category,) if isinstance(category, str) else tuple(category or ())
        yield Review(
            *names,
            _known(rating, number, f"{columns.rating} is no number", problems),
            _known(time, seconds, f"{columns.time} is no time", problems),
            tuple(prose(kind) for kind in kinds if kind is not None),
            ". ".join(said) if said else None,
        )


def _known(value: Any, read: Callable[[Any], Any], why: str, problems: Counter[str]) -> Any:
    """What a cell says, None where it says nothing or nonsense."""
    if value is None or value != value:
        return None
    try:
        return read(value)
    except (ValueError, TypeError, OverflowError):
        problems[f"{why}: unknown"] += 1
        return None

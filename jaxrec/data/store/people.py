"""Where histories come from: rows of people, streamed, or a table of single events, which is sorted in memory once."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxrec.data.histories import histories
from jaxrec.data.interaction_sets import DataConfig, InteractionSet, read
from jaxrec.data.store import row_sources
from jaxrec.data.store.events import columns_of, rows_of_people
from jaxrec.data.store.manifest import Plan
from jaxrec.data.store.place import StoreError
from jaxrec.data.store.row_sources import Block


def plan_of(source: tuple[str, ...], data: DataConfig, size: int, strict: bool) -> Plan:
    """The plan of a store of histories: its first row tells which columns there are.

    source: one name. data: how a table of single events is read. size: people of a shard. strict: the first malformed
    row stops. Raises StoreError for several sources, whose numbers of people and items would not agree.
    """
    if len(source) != 1:
        raise StoreError("histories come from one source: items of several are not numbered alike")
    settings = {"documents": size, "strict": strict}
    if _is_streamed(source[0]):
        columns = columns_of(_first(source[0]))
    else:
        events = _events(_asked(source[0], data)).interactions
        given = {"item": events.item_T, "time": events.time_T, "rating": events.rating_T}
        columns = tuple(name for name, column in given.items() if column is not None)
        settings["items"] = events.n_items
    settings["columns"] = list(columns)
    return Plan("histories", row_sources.about(source), settings=settings)


def blocks(source: tuple[str, ...], data: DataConfig, size: int) -> Iterator[Block]:
    """The people of a source in blocks. source, data, size: as of `plan_of`."""
    (name,) = source
    if _is_streamed(name):
        yield from row_sources.blocks(source, "histories", size)
        return
    whole = histories(_events(_asked(name, data)).interactions)
    for number, start in enumerate(range(0, len(whole), size)):
        part = lambda start=start: [
            (f"{name}, person {start + n}", row)
            for n, row in enumerate(
                rows_of_people(whole.take(np.arange(start, min(start + size, len(whole)))))
            )
        ]
        yield Block(number, part)


def _is_streamed(name: str) -> bool:
    """Whether the rows of a source are people. A Parquet file may hold either; its first row tells."""
    if name.startswith("hf:"):
        return True
    if not Path(name).is_file() or Path(name).suffix not in (".parquet", ".arrow", ".jsonl"):
        return False
    row = _first(name)
    return isinstance(row, dict) and isinstance(row.get("items"), list | np.ndarray)


@functools.lru_cache(maxsize=4)
def _first(name: str) -> object:
    found = next(itertools.islice(row_sources.blocks((name,), "histories", 1), 1), None)
    if found is None:
        raise StoreError(f"{name} holds no row")
    return found.rows()[0][1]


def _asked(name: str, data: DataConfig) -> DataConfig:
    return (
        dataclasses.replace(data, path=name)
        if Path(name).exists()
        else dataclasses.replace(data, name=name)
    )


@functools.lru_cache(maxsize=1)
def _events(data: DataConfig) -> InteractionSet:
    found = read(data)
    print(found.summary(), flush=True)
    return found

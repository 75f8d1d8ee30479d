"""Token rows that readers race over: 65,536 rows of 256 tokens, each contender's own file of them made where needed.

A call reads CALL batches of 8 rows, in an order that is shuffled anew in each epoch. The answer: the sum of each row,
sorted, over an epoch from its beginning, so that a reader that leaves rows out or reads some twice is found out.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from bench.race.shape import CACHE
from bench.race.worker import Work

ROWS, LENGTH, BATCH, CALL = 65_536, 256, 8, 64
FOLDER = CACHE / "reading"


def planes() -> np.ndarray:
    """[ROWS, 2, LENGTH] int32: ids of a vocabulary of 8,192, and marks of one segment whose tokens are learned."""
    rng = np.random.default_rng(0)
    ids_BL = rng.integers(3, 8192, (ROWS, LENGTH), dtype=np.int32)
    marks_BL = np.full((ROWS, LENGTH), 3, np.int32)
    marks_BL[:, 0] = 2
    return np.stack([ids_BL, marks_BL], axis=1)


def once(name: str, make: Callable[[Path], None]) -> Path:
    """The file or folder of this name, made where it is not there."""
    path = FOLDER / name
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        make(path)
    return path


def race(begin: Callable[[], Iterator[np.ndarray]], versions: dict[str, str]) -> dict[str, Work]:
    """The work of a reader. begin: gives the ids [8, 256] of batch after batch, endlessly."""
    batches = begin()

    def read() -> None:
        for _ in range(CALL):
            next(batches)

    def sums() -> np.ndarray:
        epoch = itertools.islice(begin(), ROWS // BATCH)
        return np.sort(np.concatenate([ids_BL.sum(1, dtype=np.int64) for ids_BL in epoch]))

    return {"work": Work(read, sums, versions)}

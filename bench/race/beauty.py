"""What the SASRec contenders train on: Amazon Beauty's five-core sequences, leave-one-out, and the model's one shape.

Needs numpy alone, so every environment reads the same file. RecBole's own recipe: cross-entropy over all items,
post-norm transformer, dropout 0.5.
"""

import os
from pathlib import Path

import numpy as np

WIDTH, LAYERS, HEADS, INNER, LENGTH, DROPOUT, RATE = 64, 2, 2, 256, 50, 0.5, 1e-3
ITEMS = 12_101
FULL = 32  # histories of full length in the fixed batch: as many predictions as a step of an epoch
PEOPLE = 256  # a step's people, where whole histories are trained on: about 1,500 predictions


def sequences() -> list[np.ndarray]:
    """Each person's items, numbered from 1, oldest first. Raises FileNotFoundError naming what to set."""
    root = os.environ.get("JAXREC_DATA")
    path = Path(root or ".") / "amazon14-beauty" / "sequences.txt"
    if root is None or not path.exists():
        raise FileNotFoundError("set JAXREC_DATA to the folder that holds amazon14-beauty")
    return [np.array(line.split()[1:], np.int64) for line in path.read_text().splitlines()]


def training() -> list[np.ndarray]:
    """The same without each person's last two items, which validation and test keep."""
    return [items[:-2] for items in sequences()]


def full_batch() -> np.ndarray:
    """[FULL, LENGTH + 1] random items from 1: whole histories of full length, so nothing is gained by packing them."""
    return np.random.default_rng(0).integers(1, ITEMS + 1, (FULL, LENGTH + 1))


def items() -> int:
    """How many items there are; number 0 is none of them."""
    return int(max(row.max() for row in sequences()))


def predictions() -> int:
    """How many next items one epoch predicts."""
    return sum(len(row) - 1 for row in training())

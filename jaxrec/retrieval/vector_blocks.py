"""Floor 2: vectors and ids as they come in: arrays, memory maps or blocks, checked and normalised."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxrec.retrieval.top_k import SearchError

BLOCK = 16_384


def prepare_block(
    block_ID: Float[np.ndarray, "I D"],
    dim: int,
    metric: str,
    *,
    what: str = "vector",
    first: int = 0,
) -> Float[np.ndarray, "I D"]:
    """float32 vectors ready for an index: of unit length for cosine (zeros stay zeros).

    block_ID: the vectors as they came. dim: the D that they must have. metric: "cosine" or "inner_product". what: how
    messages call a vector.

    Raises SearchError for another width or a number that is not finite; `first` is the number of the first row.
    """
    block_ID = np.asarray(block_ID)
    if block_ID.ndim != 2 or block_ID.shape[1] != dim or block_ID.dtype.kind != "f":
        raise SearchError(
            f"a {what} array of {block_ID.dtype} {block_ID.shape} does not fit: the index takes floats [rows, {dim}]"
        )
    block_ID = np.ascontiguousarray(block_ID, np.float32)
    # One pass serves both: a row that is not finite has no finite length.
    squares_I = np.einsum("id,id->i", block_ID, block_ID)
    if not np.isfinite(squares_I).all():
        row = first + int(np.flatnonzero(~np.isfinite(squares_I))[0])
        raise SearchError(f"{what} {row} holds numbers that are not finite (or too large)")
    if metric == "cosine":
        block_ID = block_ID / np.maximum(np.sqrt(squares_I), 1e-12)[:, None]
    return block_ID


def blocks_of(vectors: Any) -> tuple[Iterator[tuple[np.ndarray | None, np.ndarray]], int]:
    """(ids or None, block) pairs of an array or of an iterator of blocks or pairs, and the width of the vectors."""
    if isinstance(vectors, np.ndarray):
        if vectors.ndim != 2:
            raise SearchError(f"vectors are {vectors.shape}; they should be [items, width]")
        cut = range(0, len(vectors), BLOCK)
        return ((None, vectors[at : at + BLOCK]) for at in cut), vectors.shape[1]
    pairs = (block if isinstance(block, tuple) else (None, block) for block in vectors)
    first = next(pairs, None)
    if first is None:
        raise SearchError("there is no block of vectors; an empty index is built from shape (0, D)")
    if np.ndim(first[1]) != 2:
        raise SearchError(f"a block is {np.shape(first[1])}; it should be [items, width]")
    return itertools.chain([first], pairs), np.shape(first[1])[1]


def items_of(given: Any, streamed: list[np.ndarray], n: int) -> np.ndarray:
    """The ids of all n rows: those given, those that came with the blocks, or 0, 1, ... Raises SearchError."""
    if given is None:
        item_I = np.concatenate(streamed) if streamed else np.arange(n)
    else:
        item_I = np.asarray(given)
    if item_I.shape != (n,) or item_I.dtype.kind not in "iu":
        raise SearchError(f"ids are {item_I.dtype} {item_I.shape}; {n} whole numbers are needed")
    if n and item_I.min() < 0:
        raise SearchError(f"item {item_I.min()} is negative; -1 stands for no item")
    return item_I.astype(np.int64)

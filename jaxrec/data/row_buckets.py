"""Rows in length buckets, whatever a row is: examples, pairs of answers, thumbs. A bucket is one shape, so one program.

Where rows come padded to the longest, a bucket is a slice of their columns that drops nothing but padding.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxrec.data.source import Permutation, State
from jaxrec.structs import Tokens

Tree = Any


def lengths(tree: Tree) -> np.ndarray:
    """[N]: of each row the last real token's place + 1, over all `Tokens` in the tree."""
    found = [
        (leaf.mask_BL * np.arange(1, leaf.mask_BL.shape[1] + 1)[None]).max(1)
        for leaf in jax.tree.leaves(tree, is_leaf=_is_tokens)
        if _is_tokens(leaf)
    ]
    return np.max(found, axis=0)


def cut(tree: Tree, length: int) -> Tree:
    """The rows with their first `length` columns; what is not `Tokens` stays as it is."""
    narrow = lambda leaf: jax.tree.map(lambda x: x[:, :length], leaf) if _is_tokens(leaf) else leaf
    return jax.tree.map(narrow, tree, is_leaf=_is_tokens)


def take(tree: Tree, which: np.ndarray) -> Tree:
    """Some of the rows."""
    return jax.tree.map(lambda x: x[which], tree)


def in_buckets(tree: Tree, sizes: Sequence[int]) -> list[Tree]:
    """The rows by the smallest of `sizes` that holds them; empty buckets are left out.

    Raises ValueError where a row is longer than the largest size.
    """
    sizes, long_N = sorted(sizes), lengths(tree)
    if long_N.max() > sizes[-1]:
        raise ValueError(f"a row has {long_N.max()} tokens, the largest bucket {sizes[-1]}")
    which_N = np.searchsorted(sizes, long_N)
    return [
        cut(take(tree, np.flatnonzero(which_N == i)), size)
        for i, size in enumerate(sizes)
        if (which_N == i).any()
    ]


class BucketedRows:
    """Batches of one bucket each, in an order that is shuffled anew in each epoch, rows shuffled within their bucket.

    Every row comes once an epoch. A bucket's last batch is filled up with empty rows, of which nothing is learned.
    state = {"seed", "epoch", "position"}, position: batches of this epoch already handed out.

    buckets: trees of rows, one for each length. share: the rows of this process. pad_id: the token of empty rows.
    """

    def __init__(
        self,
        buckets: Sequence[Tree],
        rows: int,
        *,
        seed: int = 0,
        share: slice | None = None,
        pad_id: int = 0,
    ):
        self.buckets, self.rows, self.seed, self.pad_id = list(buckets), rows, seed, pad_id
        self.share = share or slice(0, rows)
        self.sizes = [len(jax.tree.leaves(bucket)[0]) for bucket in self.buckets]
        # of each bucket the first batch, among all of an epoch
        self.starts = np.cumsum([0, *(-(-size // rows) for size in self.sizes)])
        self.total = int(self.starts[-1])

    def init(self) -> State:
        """The state before the first batch."""
        return {"seed": np.asarray(self.seed), "epoch": np.asarray(0), "position": np.asarray(0)}

    def content(self) -> list[Tree]:
        """What the batches are made of."""
        return self.buckets

    def __call__(self, step: int, params: Tree, state: State) -> tuple[Tree, State]:
        """This process's rows of the next batch, and the state after it."""
        del step, params
        seed, epoch, position = (int(state[k]) for k in ("seed", "epoch", "position"))
        nth = int(Permutation(self.total, seed, epoch)(np.asarray([position]))[0])
        which = int(np.searchsorted(self.starts, nth, side="right")) - 1
        first = (nth - int(self.starts[which])) * self.rows
        start, stop, _ = self.share.indices(self.rows)
        places, size = np.arange(first + start, first + stop), self.sizes[which]
        # Places behind the bucket's end take some row that is there, which is emptied below: the shape stays one.
        picked = Permutation(size, seed, epoch, which)(np.minimum(places, size - 1))
        empty = places >= size

        def rows(leaf: np.ndarray, fill: int = 0) -> np.ndarray:
            out = np.array(leaf[picked])
            out[empty] = fill
            return out

        def part(leaf: Any) -> Any:
            if not _is_tokens(leaf):
                return rows(leaf)
            return jax.tree.map(rows, leaf).replace(ids_BL=rows(leaf.ids_BL, self.pad_id))

        after = {
            "seed": np.asarray(seed),
            "epoch": np.asarray(epoch + (position + 1) // self.total),
            "position": np.asarray((position + 1) % self.total),
        }
        return jax.tree.map(part, self.buckets[which], is_leaf=_is_tokens), after


def _is_tokens(x: Any) -> bool:
    return isinstance(x, Tokens)

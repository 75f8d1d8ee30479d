"""Deterministic sources of batches: (step, params, state) -> (batch, state).

A source is a pure function of its state, and the state is in the checkpoint: a resumed run sees the very batches
that the uninterrupted one would have seen. Arrays are shuffled by an index permutation that is computed, never stored.

    state = {"seed": ..., "epoch": ..., "position": ...}      position: rows of this epoch already handed out

A source is a callable with `init() -> state`, and where it can tell what it is made of, `content() -> arrays`. A state
is any tree of arrays (a rollout buffer, a KL controller) whose structure and shapes stay what `init` gave; a batch is
a tree of numpy arrays, this process's rows, or of jax arrays.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from jaxrec.data.permutation import Permutation as Permutation
from jaxrec.files import content_hash

Tree = Any
State = dict[str, np.ndarray]
Source = Callable[[int, Tree, Tree], tuple[Tree, Tree]]

_HASHED = 1 << 26  # bytes of an array that its hash reads
_BLOCK = 1 << 13  # positions of the shuffle that are computed at once


class ArraySource:
    """Batches of `rows` rows from a tree of equally long arrays, epoch after epoch, shuffled anew in each.

    arrays: numpy arrays (memory-mapped ones too) that lead with the example axis; any pytree, `structs.Tokens` say.
    share: the rows of each batch that this process makes (`mesh.process_rows(mesh, rows)`); all of them by default.
    make: turns the picked rows into a batch, where that is not the tree itself (padding, tokenising).
    A batch may begin in one epoch and end in the next, so no example is ever left out.
    seed: of the order. shuffle: anew in each epoch; else in the order given.
    """

    def __init__(
        self,
        arrays: Tree,
        rows: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        share: slice | None = None,
        make: Callable[[Tree], Tree] | None = None,
    ):
        sizes = {len(leaf) for leaf in jax.tree.leaves(arrays)}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(
                f"the arrays of a source are equally long and not empty, not {sorted(sizes)} long"
            )
        if rows < 1:
            raise ValueError(f"a batch of {rows} rows")
        self.arrays, self.rows, self.seed, self.shuffle, self.make = (
            arrays,
            rows,
            seed,
            shuffle,
            make,
        )
        self.size = sizes.pop()
        self.share = share or slice(0, rows)
        self._blocks: dict[tuple[int, int, int], np.ndarray] = {}

    def init(self) -> State:
        """The state before the first batch."""
        return {"seed": np.asarray(self.seed), "epoch": np.asarray(0), "position": np.asarray(0)}

    def content(self) -> Tree:
        """What the batches are made of; where `make` makes them, the first of them too."""
        if self.make is None:
            return self.arrays
        return self.arrays, self.make(self.take(self.pick(self.seed, 0, 0, self.rows)))

    def take(self, picked: np.ndarray) -> Tree:
        """Rows of the arrays by their numbers."""
        return jax.tree.map(lambda leaf: np.asarray(leaf[picked]), self.arrays)

    def __call__(self, step: int, params: Tree, state: State) -> tuple[Tree, State]:
        """This process's rows of the next batch, and the state after it."""
        seed, epoch, position = (int(state[k]) for k in ("seed", "epoch", "position"))
        start, stop, _ = self.share.indices(self.rows)
        batch = self.take(self.pick(seed, epoch, position + start, stop - start))
        done = position + self.rows
        after = {
            "seed": np.asarray(seed),
            "epoch": np.asarray(epoch + done // self.size),
            "position": np.asarray(done % self.size),
        }
        return (self.make(batch) if self.make else batch), after

    def pick(self, seed: int, epoch: int, position: int, count: int) -> np.ndarray:
        """[count]: which examples stand at `count` positions from `position` on, counted from the start of `epoch`.

        seed: of the order.
        """
        parts = []
        while count > 0:
            epoch, position = epoch + position // self.size, position % self.size
            block, offset = divmod(position, _BLOCK)
            part = self._block(seed, epoch, block)[offset : offset + count]
            parts.append(part)
            position, count = position + len(part), count - len(part)
        return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, np.int64), *parts])

    def _block(self, seed: int, epoch: int, block: int) -> np.ndarray:
        """_BLOCK positions of an epoch at once: the permutation costs the same for one row as for many."""
        key = seed, epoch, block
        if key not in self._blocks:
            if len(self._blocks) > 3:
                self._blocks.clear()
            index = np.arange(block * _BLOCK, min((block + 1) * _BLOCK, self.size))
            self._blocks[key] = (
                Permutation(self.size, seed, epoch)(index) if self.shuffle else index
            )
        return self._blocks[key]


class Prefetch:
    """Makes the next batch on a thread while the devices work. For sources that do not read `params`.

    Exact on resume: the batch made ahead is used only if it was made from the very state that is asked for.
    """

    def __init__(self, source: Source):
        self.source = source
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="source")
        self._ahead: tuple[Any, Future] | None = None

    def init(self) -> Tree:
        """The inner source's first state."""
        return self.source.init()

    def content(self) -> Tree:
        """The inner source's content, where it tells."""
        return content_of(self.source)

    def __call__(self, step: int, params: Tree, state: Tree) -> tuple[Tree, Tree]:
        """The inner source's batch and state."""
        # The very object, and not an equal one: after a resume the state is another one, and what was made ahead is
        # not used.
        if self._ahead is not None and self._ahead[0] is state:
            batch, after = self._ahead[1].result()
        else:
            batch, after = self.source(step, None, state)
        self._ahead = after, self._thread.submit(self.source, step + 1, None, after)
        return batch, after


def content_of(source: Source) -> Tree:
    """What a source's batches are made of, a tree of arrays; None for a source that does not tell (`content`)."""
    tells = getattr(source, "content", None)
    return tells() if tells is not None else None


def data_hash(source: Source) -> str:
    """A hash of a source's content, 12 digits; "" where that is not known, or differs between processes.

    Of an array of more than 64 MB, blocks spread over it are read. It tells data apart; it is no defence against
    forgery.
    """
    leaves = jax.tree.leaves(content_of(source)) if jax.process_count() == 1 else []
    parts = [part for leaf in leaves for part in _told(leaf)]
    return content_hash(*parts, digits=12) if leaves else ""


def _told(leaf: Any) -> list[str | np.ndarray]:
    """What stands for a leaf; features on disk are named by a hash of all that they follow from, and are not read."""
    content = getattr(leaf, "content", None)
    return _sampled(np.asarray(leaf)) if content is None else [content]


def _sampled(leaf: np.ndarray) -> list[str | np.ndarray]:
    if leaf.dtype == object:
        return [repr(leaf.tolist())]
    head = f"{leaf.shape} {leaf.dtype}"
    if leaf.nbytes <= _HASHED or leaf.ndim == 0:
        return [head, leaf]
    blocks = 256
    rows = max(len(leaf) * _HASHED // leaf.nbytes // blocks, 1)
    starts = np.linspace(0, max(len(leaf) - rows, 0), blocks).astype(int)
    return [head, *(np.asarray(leaf[at : at + rows]) for at in starts)]

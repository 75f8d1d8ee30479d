"""Vectors that are as hard to search as real sentence vectors, any number of them, block by block from a seed.

    x = normalised rotation of (topic + subtopic + its own part),  each part Gaussian with a spectrum i ** -decay

A topic has many subtopics, a subtopic many vectors; some subtopics are large (a power law) and some are tight (a
log-normal width), so that near neighbours are as near, and as unevenly near, as those of real texts. Every subtopic
stretches directions of its own. A query is a draw that is not among the vectors, moved a little: never a copy.

The constants of `SHAPE` were fitted to MiniLM's vectors of all texts at hand by

    python -m eval.search_fit

which prints both geometries side by side. Block b depends on the seed and on b alone.
"""

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float

BLOCK = 8192


@dataclasses.dataclass(frozen=True)
class Shape:
    """The law that vectors are drawn from.

    common: length of what all vectors share. topics, subtopics: how many. topic, subtopic, own: lengths of the three
    parts before normalisation. *_decay: the exponents of their spectra. size_decay: the power law of the subtopics'
    sizes.
    uneven: standard deviation of the log of a subtopic's width. own_uneven: of the log of a vector's own width.
    query: length of the move of a query.
    """

    common: float = 0.245
    topics: int = 256
    subtopics: int = 65_536
    topic: float = 0.6
    subtopic: float = 0.77
    own: float = 0.66
    topic_decay: float = 0.58
    subtopic_decay: float = 1.6
    own_decay: float = 1.25
    size_decay: float = 0.6
    uneven: float = 0.67
    own_uneven: float = 0.47
    query: float = 0.1


SHAPE = Shape()


class Vectors:
    """`n` vectors of width `dim` and length 1, float32. The seed fixes the centres, every block and the queries."""

    def __init__(self, n: int, dim: int, seed: int = 0, shape: Shape = SHAPE):
        self.n, self.dim, self.seed, self.shape = n, dim, seed, shape
        s, rng = shape, np.random.default_rng([seed, 0])
        normal = lambda *size: rng.standard_normal(size, np.float32)
        self._rotation_DD = np.linalg.qr(normal(dim, dim))[0]
        topics_TD = s.topic * _spectrum(dim, s.topic_decay) * normal(s.topics, dim)
        self._topic_C = rng.integers(s.topics, size=s.subtopics)
        self._centre_CD = s.subtopic * _spectrum(dim, s.subtopic_decay) * normal(s.subtopics, dim)
        self._centre_CD += topics_TD[self._topic_C] + s.common * normal(dim) / np.sqrt(
            dim, dtype=np.float32
        )
        self._width_C = s.own * np.exp(s.uneven * normal(s.subtopics))
        size_C = (np.arange(s.subtopics) + 1.0) ** -s.size_decay
        self._edge_C = np.cumsum(size_C / size_C.sum())
        # Twice the spectrum in a row: a subtopic's own directions are a window of it.
        self._shift_C = rng.integers(dim, size=s.subtopics)
        self._spectrum_2D = np.tile(_spectrum(dim, s.own_decay), 2)

    def __len__(self) -> int:
        return self.n

    @property
    def n_blocks(self) -> int:
        """How many blocks there are."""
        return -(-self.n // BLOCK)

    def block(self, b: int) -> Float[np.ndarray, "I D"]:
        """The rows of block b; all blocks have `BLOCK` rows but the last."""
        if not 0 <= b < self.n_blocks:
            raise IndexError(f"block {b}; there are {self.n_blocks}")
        return self._draw(np.random.default_rng([self.seed, 1, b]), BLOCK)[: self.n - b * BLOCK]

    def blocks(self) -> Iterator[Float[np.ndarray, "I D"]]:
        """All blocks in order, two being made at a time."""
        with ThreadPoolExecutor(2) as pool:
            ahead = [pool.submit(self.block, b) for b in range(min(3, self.n_blocks))]
            for b in range(self.n_blocks):
                done = ahead.pop(0)
                if b + 3 < self.n_blocks:
                    ahead.append(pool.submit(self.block, b + 3))
                yield done.result()

    def array(self) -> Float[np.ndarray, "I D"]:
        """All of them in memory."""
        out_ID = np.empty((self.n, self.dim), np.float32)
        for b, block_ID in enumerate(self.blocks()):
            out_ID[b * BLOCK : b * BLOCK + len(block_ID)] = block_ID
        return out_ID

    def queries(self, n: int) -> Float[np.ndarray, "I D"]:
        """n draws that are not among the vectors, each moved by `shape.query` in a direction of its own."""
        rng = np.random.default_rng([self.seed, 2])
        q_ID = self._draw(rng, n)
        move_ID = rng.standard_normal(q_ID.shape, np.float32) / np.sqrt(np.float32(self.dim))
        return _unit(q_ID + np.float32(self.shape.query) * move_ID)

    def _draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        subtopic_I = np.searchsorted(self._edge_C, rng.random(n)).clip(0, len(self._edge_C) - 1)
        width_I = self._width_C[subtopic_I]
        width_I = width_I * np.exp(
            np.float32(self.shape.own_uneven) * rng.standard_normal(n, np.float32)
        )
        x_ID = rng.standard_normal((n, self.dim), np.float32)
        windows_XD = np.lib.stride_tricks.sliding_window_view(self._spectrum_2D, self.dim)
        x_ID *= windows_XD[self._shift_C[subtopic_I]]
        x_ID *= width_I[:, None].astype(np.float32)
        x_ID += self._centre_CD[subtopic_I]
        return _unit(x_ID @ self._rotation_DD)


# ------------------------------------------------------------------------------------------ inside


def _spectrum(dim: int, decay: float) -> np.ndarray:
    """Standard deviations of the directions: variance falls as (i + 1) ** -decay, and sums to 1."""
    variance_D = (np.arange(dim) + 1.0) ** -decay
    return np.sqrt(variance_D / variance_D.sum()).astype(np.float32)


def _unit(x_ID: np.ndarray) -> np.ndarray:
    return x_ID / np.linalg.norm(x_ID, axis=1, keepdims=True)

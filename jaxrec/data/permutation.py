"""Floor 1: a shuffle that is computed by index and never stored: the order of every source. numpy only."""

import numpy as np

_ROUNDS = 4  # of the Feistel network; four make a pseudo-random permutation (Luby & Rackoff 1988)


class Permutation:
    """A pseudo-random permutation of 0..size-1, by index: memory of the indices asked for, nothing more.

    A Feistel network over the smallest even number of bits that holds `size`, walked along its cycle until the
    value falls below `size` (fewer than 4 walks on average).
    """

    def __init__(self, size: int, *key: int):
        if size < 1:
            raise ValueError(f"a permutation of {size} items")
        self.size = size
        self.half = max((size - 1).bit_length() + 1, 2) // 2
        self.mask = np.uint64((1 << self.half) - 1)
        self.keys = np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64)

    def __call__(self, index: np.ndarray) -> np.ndarray:
        """The images of `index` (int64, each in 0..size-1)."""
        image = self._once(np.asarray(index).astype(np.uint64))
        # Walking on until the value is in range keeps it a permutation; a remainder would hit some examples twice
        # and others never.
        while (outside := image >= self.size).any():
            image[outside] = self._once(image[outside])
        return image.astype(np.int64)

    def _once(self, x: np.ndarray) -> np.ndarray:
        half = np.uint64(self.half)
        left, right = x >> half, x & self.mask
        for key in self.keys:
            left, right = right, left ^ (_mixed(right + key) & self.mask)
        return (left << half) | right


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every bit of the input reaches every bit of the output."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

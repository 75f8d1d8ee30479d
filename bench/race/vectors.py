"""What is searched: random unit vectors, as exact search takes the same time on any. Needs numpy alone."""

import numpy as np

ITEMS, WIDTH, K = 100_000, 768, 30


def items() -> np.ndarray:
    """[100000, 768] unit vectors, seeded."""
    return _unit(0, ITEMS)


def queries(batch: int) -> np.ndarray:
    """[batch, 768] unit vectors, seeded."""
    return _unit(1, batch)


def _unit(seed: int, count: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((count, WIDTH), dtype=np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

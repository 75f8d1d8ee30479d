"""People for the tenant races: a table of p, and the ways in which a batch draws from it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.race.worker import Work

POPULATIONS = (1, 256, 1_000, 10_000)
WIDTH_P = 128


def table() -> Any:
    """Vectors p [U, E] of the largest population."""
    import jax

    return jax.random.normal(jax.random.key(1), (POPULATIONS[-1], WIDTH_P))


def stirred(tree: Any, scale: float = 0.02) -> Any:
    """Weights with noise on them: a new A(p) makes the same Delta of every p, a trained one doesn't."""
    import jax

    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    noisy = [x + scale * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, noisy)


def drawn(work: Callable[[Callable[[], np.ndarray]], Work], batch: int) -> dict[str, Work]:
    """Work for each way to fill a batch; `work` takes a function that gives the tenants of the next batch.

    `shared`: tenant 0 for all rows, its delta held once. `distinct`: tenants 0, 1, 2, ... `stream_N`: drawn anew for
    each batch from N people; its answer is that of `distinct`, since draws can't be compared.
    """
    rng = np.random.default_rng(0)
    first = np.arange(batch, dtype=np.int32)
    works = {"shared": work(lambda: first[:1]), "distinct": work(lambda: first)}
    for count in POPULATIONS:
        stream = work(lambda count=count: rng.integers(0, count, batch, dtype=np.int32))
        works[f"stream_{count}"] = Work(stream.run, works["distinct"].answer, stream.versions)
    return works

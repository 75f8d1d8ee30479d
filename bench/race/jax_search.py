"""Exact search: ours on a device, ours without jax, and what plain JAX gives.

Each has a process of its own: threads that numpy's BLAS leaves waiting would slow a program that XLA runs beside them.
"""

import numpy as np

from bench.race import vectors
from bench.race.worker import Work


def prepare(engine: str = "device", batch: int = 1) -> dict[str, Work]:
    """The 30 nearest of `batch` queries; the answer is their sorted scores."""
    x_ID, q_BD = vectors.items(), vectors.queries(batch)
    search, versions = {"device": _device, "blas": _blas, "top_k": _top_k}[engine](x_ID)
    return {"work": Work(lambda: search(q_BD), lambda: search(q_BD), versions)}


def _device(x_ID: np.ndarray):
    from jaxrec.retrieval.device_top_k import DeviceTopK

    index = DeviceTopK(x_ID)
    return lambda q_BD: index.search(q_BD, vectors.K).scores_BJ, {}


def _blas(x_ID: np.ndarray):
    from jaxrec.retrieval.exact import ExactSearch

    index = ExactSearch(x_ID)
    return lambda q_BD: index.search(q_BD, vectors.K).scores_BJ, {"numpy": np.__version__}


def _top_k(x_ID: np.ndarray):
    import jax
    import jax.numpy as jnp

    items_ID = jnp.array(x_ID)
    plain = jax.jit(lambda q_BD, items_ID: jax.lax.top_k(q_BD @ items_ID.T, vectors.K))
    return lambda q_BD: np.asarray(plain(q_BD, items_ID)[0]), {}

"""Exact search: ours, and what plain JAX gives."""

from eval.race import vectors
from eval.race.worker import Work


def prepare(batch: int = 1) -> dict[str, Work]:
    """The 30 nearest of `batch` queries; the answer is their sorted scores."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxrec.retrieval.device_top_k import DeviceTopK
    from jaxrec.retrieval.exact import ExactSearch

    index, q_BD = ExactSearch(vectors.items()), vectors.queries(batch)
    search = lambda: index.search(q_BD, vectors.K)
    items_ID = jnp.array(index.vectors_ID)
    plain = jax.jit(lambda q_BD, items_ID: jax.lax.top_k(q_BD @ items_ID.T, vectors.K))
    top_k = lambda: np.asarray(plain(q_BD, items_ID)[0])
    device = DeviceTopK(index.vectors_ID)
    compiled = lambda: device.search(q_BD, vectors.K)
    return {
        "work": Work(compiled, lambda: compiled().scores_BJ),
        "blas": Work(search, lambda: search().scores_BJ, {"numpy": np.__version__}),
        "top_k": Work(top_k, top_k),
    }

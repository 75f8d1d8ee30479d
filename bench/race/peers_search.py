"""Exact search by the others: FAISS (with BLAS, and as it comes), numpy, torch."""

import os

import numpy as np

from bench.race import vectors
from bench.race.worker import Work


def prepare(engine: str = "faiss-blas", batch: int = 1) -> dict[str, Work]:
    """The 30 nearest of `batch` queries; the answer is their sorted scores."""
    x_ID, q_BD = vectors.items(), vectors.queries(batch)
    threads = int(os.environ.get("OMP_NUM_THREADS", "0")) or os.cpu_count() or 1
    search, versions = {"faiss": _faiss, "numpy": _numpy, "torch": _torch}[engine.split("-")[0]](
        x_ID, threads, blas=engine.endswith("-blas")
    )
    return {"work": Work(lambda: search(q_BD), lambda: search(q_BD)[0], versions)}


def _faiss(x_ID: np.ndarray, threads: int, blas: bool):
    import faiss

    faiss.omp_set_num_threads(threads)
    if blas:  # FAISS avoids BLAS for small batches unless told otherwise
        faiss.cvar.distance_compute_blas_threshold = 1
    index = faiss.IndexFlatIP(x_ID.shape[1])
    index.add(x_ID)
    return lambda q_BD: index.search(q_BD, vectors.K), {"faiss": faiss.__version__}


def _numpy(x_ID: np.ndarray, threads: int, blas: bool):
    del threads, blas

    def search(q_BD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scores_BI = q_BD @ x_ID.T
        best_BK = np.argpartition(-scores_BI, vectors.K, axis=1)[:, : vectors.K]
        kept_BK = np.take_along_axis(scores_BI, best_BK, 1)
        order_BK = np.argsort(-kept_BK, axis=1)
        return np.take_along_axis(kept_BK, order_BK, 1), np.take_along_axis(best_BK, order_BK, 1)

    return search, {"numpy (peers')": np.__version__}


def _torch(x_ID: np.ndarray, threads: int, blas: bool):
    del blas
    import torch

    torch.set_num_threads(threads)
    items_ID = torch.from_numpy(x_ID)

    def search(q_BD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scores_BK, best_BK = torch.topk(torch.from_numpy(q_BD) @ items_ID.T, vectors.K)
        return scores_BK.numpy(), best_BK.numpy()

    return search, {"torch": torch.__version__}

"""Floor 2: the FAISS side of an index: cells, graphs and codes that propose slots; `Index` re-scores what they propose.

FAISS numbers what is added from 0, and those numbers are the slots. It is never asked to remove anything: graphs can't,
and the slots of cells would shift. Dead slots are left out by a selector.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxrec.retrieval.index_choice import IndexConfig
from jaxrec.retrieval.top_k import SearchError

_log = logging.getLogger(__name__)
_NO_SELECTOR = ("pq", "pq_fast")  # of kind flat: these take no search parameters in FAISS
_QUANTISER_LISTS = 16_384  # so many cells are themselves found through a graph


class Structure:
    """A FAISS index of the resolved `config`, trained on a sample, or one that was read from a file."""

    def __init__(self, config: IndexConfig, index: Any):
        self.config, self.index = config, index
        self._gpu: Any = None
        self.readonly = False

    @classmethod
    def train(cls, config: IndexConfig, sample_ID: Float[np.ndarray, "I D"]) -> "Structure":
        """Cells and codes from a sample. Raises SearchError with FAISS's own words where it refuses."""
        import faiss

        _threads(config)
        dim = sample_ID.shape[1]
        metric = faiss.METRIC_INNER_PRODUCT
        try:
            index = faiss.index_factory(dim, _recipe(config, dim), metric)
            inner = _inner(index)
            if config.kind == "ivf":
                inner.cp.seed = config.seed + 1234
                # On the unit sphere means are pulled inwards; spherical k-means keeps them on it.
                inner.cp.spherical = config.metric == "cosine"
                # The sample has been drawn already: FAISS would cut it down to 256 vectors a cell, and complain of
                # fewer than 39.
                inner.cp.max_points_per_centroid = max(1, len(sample_ID) // config.nlist + 1)
                inner.cp.min_points_per_centroid = 1
            if config.kind == "hnsw":
                inner.hnsw.efConstruction = config.build_ef
            for coder in ("pq", "rq"):
                if hasattr(inner, coder):
                    getattr(inner, coder).cp.seed = config.seed + 1234
            if not index.is_trained:
                index.train(np.ascontiguousarray(sample_ID, np.float32))
        except RuntimeError as error:
            raise SearchError(f"FAISS cannot make {config.kind}/{config.code}: {error}") from error
        return cls(config, index)

    @classmethod
    def read(cls, config: IndexConfig, path: str | Path, mmap: bool) -> "Structure":
        """From a file that `write` made; `mmap`: its codes stay in the file, and it can't be added to."""
        import faiss

        _threads(config)
        try:
            flag = faiss.IO_FLAG_MMAP_IFC if mmap else 0
            made = cls(config, faiss.read_index(str(path), flag))
        except RuntimeError as error:
            raise SearchError(
                f"{path} is no FAISS index that this version reads: {error}"
            ) from error
        made.readonly = mmap
        return made

    def write(self, path: str | Path) -> None:
        """Writes all but the vectors' store."""
        import faiss

        faiss.write_index(self.index, str(path))

    def __len__(self) -> int:
        return self.index.ntotal

    def add(self, block_ID: Float[np.ndarray, "I D"]) -> None:
        """The next slots."""
        _threads(self.config)
        # A copy on the GPUs lacks what is added now; the next search makes another.
        self._gpu = None
        self.index.add(np.ascontiguousarray(block_ID, np.float32))

    def search(
        self,
        q_BD: Float[np.ndarray, "B D"],
        count: int,
        config: IndexConfig,
        bits: np.ndarray | None = None,
    ) -> Int[np.ndarray, "B J"]:
        """`count` slots for each query, best first as far as the codes know; -1 where there are fewer.

        config: says nprobe and ef of this search. bits: only these slots (little-endian). A structure without
        selectors answers without regard to them, so the caller checks every slot.
        q_BD: the queries.
        """
        _threads(config)
        count = min(count, len(self))
        index = self._on_gpu(config)
        if index is not None and bits is None:
            return index.search(q_BD, count)[1]
        parameters = self._parameters(config, bits)
        if (
            config.kind == "ivf"
        ):  # one query's cells, or several queries, are what the threads share
            _inner(self.index).parallel_mode = 1 if len(q_BD) == 1 else 0
        if parameters is None:
            return self.index.search(q_BD, count)[1]
        return self.index.search(q_BD, count, params=parameters)[1]

    def takes_selector(self) -> bool:
        """Whether `bits` are heeded."""
        return not (self.config.kind == "flat" and self.config.code in _NO_SELECTOR)

    def _parameters(self, config: IndexConfig, bits: np.ndarray | None) -> Any:
        import faiss

        given: dict[str, Any] = {}
        if bits is not None and self.takes_selector():
            given["sel"] = faiss.IDSelectorBitmap(bits)
        if config.kind == "ivf":
            made = faiss.SearchParametersIVF(nprobe=min(config.nprobe, config.nlist), **given)
        elif config.kind == "hnsw":
            made = faiss.SearchParametersHNSW(efSearch=config.ef, **given)
        elif not given:
            return None
        else:
            made = faiss.SearchParameters(**given)
        if config.rotate:
            return faiss.SearchParametersPreTransform(index_params=made)
        return made

    def _on_gpu(self, config: IndexConfig) -> Any:
        """A copy on the GPUs where FAISS was built for them and there are any; None elsewhere."""
        if config.gpu == "never" or config.kind not in ("flat", "ivf") or gpus() == 0:
            return None
        if self._gpu is None:
            import faiss

            try:
                self._gpu = faiss.index_cpu_to_all_gpus(self.index)
            except RuntimeError as error:
                raise SearchError(
                    f"FAISS has no GPU form of {config.kind}/{config.code} ({error}); set gpu never"
                ) from error
            _log.info("the index lies on %d GPUs", gpus())
        if config.kind == "ivf":
            for part in _shards(self._gpu):
                part.nprobe = min(config.nprobe, config.nlist)
        return self._gpu


def brute_force(
    piece_ID: Float[np.ndarray, "I D"], q_BD: Float[np.ndarray, "B D"], k: int, config: IndexConfig
) -> tuple[Int[np.ndarray, "B J"], Float[np.ndarray, "B J"]]:
    """FAISS Flat (inner product) over float32 rows that stay where they are: (rows, scores), k or all of them.

    piece_ID: the rows. q_BD: the queries. config: says with how many threads.
    """
    import faiss

    _threads(config)
    k = min(k, len(piece_ID))
    before = faiss.cvar.distance_compute_blas_threshold
    # From its own default of 20 queries on FAISS multiplies matrices; below, single products are faster only for one.
    faiss.cvar.distance_compute_blas_threshold = 2
    try:
        scores_BJ, rows_BJ = faiss.knn(
            np.ascontiguousarray(q_BD, np.float32), piece_ID, k, metric=faiss.METRIC_INNER_PRODUCT
        )
    finally:
        faiss.cvar.distance_compute_blas_threshold = before
    return rows_BJ, scores_BJ


def gpus() -> int:
    """How many GPUs FAISS can use: 0 for its CPU build."""
    import faiss

    return faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0


def sample_of(
    blocks: Iterable[tuple[int, Float[np.ndarray, "I D"]]], n: int, rows: int, dim: int, seed: int
) -> Float[np.ndarray, "J D"]:
    """`rows` of n vectors, drawn without replacement, read in one pass over the blocks.

    blocks: (number of the first row, rows). n: how many vectors there are. dim: D. seed: of the draw.
    """
    if rows >= n:
        chosen = np.arange(n)
    else:
        chosen = np.sort(np.random.default_rng(seed).choice(n, rows, replace=False))
    out_JD, at = np.empty((len(chosen), dim), np.float32), 0
    for start, block_ID in blocks:
        stop = np.searchsorted(chosen, start + len(block_ID))
        out_JD[at:stop] = block_ID[chosen[at:stop] - start]
        at = stop
    return out_JD


# ------------------------------------------------------------------------------------------ inside


def _recipe(config: IndexConfig, dim: int) -> str:
    """FAISS's own string for a structure."""
    code = {"none": "Flat", "fp16": "SQfp16", "sq8": "SQ8", "sq4": "SQ4", "pq": f"PQ{config.m}x8"}
    code |= {"pq_fast": f"PQ{config.m}x4fs"}
    code |= {"rabitq": "RaBitQ" if config.kind == "flat" else "RaBitQfs"}
    parts = [f"RR{dim}"] if config.rotate else []
    if config.kind == "ivf":
        graph = "_HNSW32" if config.nlist >= _QUANTISER_LISTS else ""
        parts.append(f"IVF{config.nlist}{graph}")
    elif config.kind == "hnsw":
        parts.append(f"HNSW{config.links}")
    return ",".join([*parts, code[config.code]])


def _inner(index: Any) -> Any:
    """The index below a rotation."""
    import faiss

    index = faiss.downcast_index(index)
    return (
        faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
    )


def _shards(index: Any) -> list[Any]:
    """The parts of a replicated GPU index, or the index alone."""
    import faiss

    if isinstance(index, faiss.IndexReplicas):
        return [faiss.downcast_index(index.at(i)) for i in range(index.count())]
    return [index]


def _threads(config: IndexConfig) -> None:
    if config.threads:
        import faiss

        faiss.omp_set_num_threads(config.threads)

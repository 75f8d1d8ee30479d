"""Floor 2: which index suits a catalogue, chosen by its size or by config; the reason is one line for the log.

What is held in memory for each vector of width D, beside the store of whole vectors (a file) that re-scores:

    none 4 D bytes   fp16 2 D   sq8 D   sq4 D / 2   pq m (8 bits each)   pq_fast m / 2 (4 bits each)   rabitq D / 8
"""

import dataclasses
import math
from typing import Literal

from jaxrec.retrieval.top_k import SearchError

Kind = Literal["auto", "exact", "flat", "ivf", "hnsw"]
Code = Literal["auto", "none", "fp16", "sq8", "sq4", "pq", "pq_fast", "rabitq"]

# Numbers (rows x width) up to which every vector is compared. 100,000 x 768 took 20-30 ms a query on two cores that
# others were using too, so this is some 5 ms.
EXACT_NUMBERS = 20_000 * 768
POINTS_PER_LIST = 39  # fewer to train a centroid on, and FAISS warns that it is poorly placed
HNSW_CODES = ("none", "fp16", "sq8", "sq4")


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """How vectors are indexed. 0 or "auto": chosen from the size by `choose`.

    kind: exact compares all vectors by BLAS (`exact.py`), flat does it in FAISS (without a code: brute force over the
      store), ivf looks into the `nprobe` nearest of `nlist` cells, hnsw walks a graph of `links` neighbours.
    code: what flat, ivf and hnsw hold of a vector. Whatever they find is re-scored from the store.
    metric: cosine normalises vectors and queries; inner_product takes them as they are.
    m: sub-quantisers of pq and pq_fast. rotate: a random rotation first (evens out the dimensions for pq and rabitq).
    ef: breadth of the walk (hnsw). candidates: how many are re-scored for each query.
    store: the type of the whole vectors. train_rows: the sample on which cells and codes are trained.
    threads: of FAISS, for the whole process (0: as it is). gpu: flat and ivf go to the GPUs where FAISS has them.
    """

    kind: Kind = "auto"
    code: Code = "auto"
    metric: Literal["cosine", "inner_product"] = "cosine"
    nlist: int = 0
    nprobe: int = 0
    m: int = 0
    rotate: bool = False
    ef: int = 128
    links: int = 32
    build_ef: int = 100
    candidates: int = 0
    store: Literal["auto", "float16", "float32"] = "auto"
    train_rows: int = 0
    threads: int = 0
    gpu: Literal["auto", "never"] = "auto"
    seed: int = 0

    def __post_init__(self):
        counts = ("nlist", "nprobe", "m", "candidates", "train_rows", "threads")
        for name in counts:
            if getattr(self, name) < 0:
                raise SearchError(f"{name} is {getattr(self, name)}; it is 0 (chosen) or more")
        for name in ("ef", "links", "build_ef"):
            if getattr(self, name) < 1:
                raise SearchError(f"{name} is {getattr(self, name)}; it is at least 1")
        if self.kind == "hnsw" and self.code not in ("auto", *HNSW_CODES):
            raise SearchError(f"an hnsw index holds {', '.join(HNSW_CODES)}, not {self.code}")
        if self.kind == "exact" and self.code not in ("auto", "none"):
            raise SearchError(f"an exact search has no code {self.code}; take kind flat or ivf")


def choose(n: int, dim: int, config: IndexConfig) -> tuple[IndexConfig, str]:
    """The config with every open choice made for `n` vectors of width `dim`, and why, in one line.

    Raises SearchError where the config does not fit the size (too few vectors to train on, m that does not divide).
    """
    kind, why = config.kind, "as configured"
    if kind == "auto":
        small = n * dim <= EXACT_NUMBERS
        kind = "exact" if small else "ivf"
        rows = EXACT_NUMBERS // dim
        why = f"{n:,} vectors of width {dim}: " + (
            f"up to {rows:,} all are compared" if small else f"more than {rows:,} go into cells"
        )
    code = config.code
    if code == "auto":
        code = "none" if kind in ("exact", "flat") else "sq8"
        if kind == "ivf" and dim % 4 == 0 and dim >= 64:
            code = "pq_fast"
    made = dataclasses.replace(config, kind=kind, code=code)
    made = dataclasses.replace(made, store=store_type(made))
    made = dataclasses.replace(made, train_rows=config.train_rows or _train_rows(n, made))
    if kind == "ivf":
        made = _cells(n, made)
    if code in ("pq", "pq_fast"):
        made = _quantisers(dim, made)
    if code not in ("none", "fp16") and n < _needed(made):
        raise SearchError(
            f"code {code} is trained on at least {_needed(made)} vectors, and there are {n}; take kind exact"
        )
    made = dataclasses.replace(made, candidates=config.candidates or _candidates(made))
    return made, f"{describe(made)} ({why})"


def store_type(config: IndexConfig) -> str:
    """float32 where whole vectors are compared by FAISS or by BLAS, else float16, if nothing else is configured."""
    if config.kind == "flat" and config.code in ("auto", "none"):
        return "float32"
    if config.store != "auto":
        return config.store
    return "float32" if config.kind == "exact" else "float16"


def describe(config: IndexConfig) -> str:
    """The structure of a resolved config in a few words, "ivf 4096 cells, 128 visited, pq_fast m 192"."""
    words = [config.kind]
    if config.kind == "ivf":
        words = [f"ivf {config.nlist} cells, {config.nprobe} visited"]
    elif config.kind == "hnsw":
        words = [f"hnsw {config.links} links, ef {config.ef}"]
    if config.code in ("pq", "pq_fast"):
        words.append(f"{config.code} m {config.m}")
    elif config.code != "none":
        words.append(config.code)
    if config.kind != "exact" and config.code != "none":
        words.append(f"{config.candidates} re-scored in {config.store}")
    return ", ".join(words)


# ------------------------------------------------------------------------------------------ inside


def _train_rows(n: int, config: IndexConfig) -> int:
    """Enough for the cells (64 vectors each), at least 65,536 for the codes."""
    cells = config.nlist or _nlist(n)
    return min(n, max(65_536, 64 * cells if config.kind == "ivf" else 0))


def _nlist(n: int) -> int:
    """The power of two next to 4 sqrt(n): about sqrt(n) / 4 vectors in each."""
    return 1 << max(0, round(math.log2(max(1.0, 4 * math.sqrt(n)))))


def _cells(n: int, config: IndexConfig) -> IndexConfig:
    most = max(1, config.train_rows // POINTS_PER_LIST)
    if config.nlist > config.train_rows or n == 0:
        raise SearchError(
            f"{config.nlist} cells need as many vectors to train on, and there are {min(n, config.train_rows)}"
        )
    nlist = config.nlist or min(_nlist(n), 1 << (most.bit_length() - 1))
    # A thirty-second of the cells, but never so few that small indexes miss neighbours over the fence.
    nprobe = min(nlist, config.nprobe or max(16, nlist // 32))
    return dataclasses.replace(config, nlist=nlist, nprobe=nprobe)


def _quantisers(dim: int, config: IndexConfig) -> IndexConfig:
    width = 4 if config.code == "pq_fast" else 8
    m = config.m or next(m for m in range(max(1, dim // width), 0, -1) if dim % m == 0)
    if dim % m:
        near = [d for d in range(1, dim + 1) if dim % d == 0 and abs(d - m) < dim / 4]
        raise SearchError(f"m = {m} does not divide the width {dim}; {near} do")
    return dataclasses.replace(config, m=m)


def _needed(config: IndexConfig) -> int:
    return {"pq": 256, "pq_fast": 16}.get(config.code, 1)


def _candidates(config: IndexConfig) -> int:
    return {"none": 0, "fp16": 50, "sq8": 50, "sq4": 100, "rabitq": 500}.get(config.code, 300)

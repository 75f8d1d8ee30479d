"""1.57 million x 768 vectors as hard to search as real sentence vectors: recall@10 against latency on two cores.

    python -m eval.search configs/search_1m57.py

COST. 2 CPU cores, 12 GB of memory while building, 8 GB of disk in `runs/`: NUMBERS.
"""

from eval.search import Entry, SearchConfig
from jaxrec.retrieval.index_choice import IndexConfig

ROWS = 131_072  # k-means sees 32 vectors for each of 4,096 cells

config = SearchConfig(
    name="search_1m57",
    n=1_570_000,
    dim=768,
    queries=1000,
    work="runs/search_1m57",
    entries=(
        Entry(
            "IVF, PQ fast-scan",
            IndexConfig(kind="ivf", code="pq_fast", nlist=4096, m=192, train_rows=ROWS),
            nprobe=(32, 64, 128, 256, 512),
            candidates=(150, 400),
            encoders=("float32", "int8"),
        ),
        Entry(
            "IVF, SQ8",
            IndexConfig(kind="ivf", code="sq8", nlist=4096, train_rows=ROWS),
            nprobe=(16, 32, 64, 128, 256),
        ),
        Entry("Flat", IndexConfig(kind="flat", code="none"), queries=50),
        Entry(
            "IVF, PQ fast-scan, a quarter",
            IndexConfig(kind="ivf", code="pq_fast", nlist=2048, m=192, train_rows=ROWS // 2),
            nprobe=(32, 64, 128, 256),
            candidates=(150, 400),
            n=392_500,
        ),
        Entry(
            "HNSW, SQ8",
            IndexConfig(kind="hnsw", code="sq8", links=32, build_ef=80),
            ef=(32, 64, 128, 256),
            n=100_000,
        ),
    ),
)

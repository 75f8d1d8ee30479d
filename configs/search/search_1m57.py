"""1.57 million x 768 vectors as hard to search as real sentence vectors: recall@10 against latency on two cores.

    python -m eval.search configs/search/search_1m57.py

COST. 2 CPU cores, half an hour (most of it the two inverted files), 6 GB of memory, 8 GB of disk in `runs/`.
NUMBER. PQ fast-scan, 150 re-scored: recall@10 .990, p50 6.4 ms, 2.5 GB; 300: .9955, 6.7 ms. Of record are the
first three entries (7 minutes); the inverted files and HNSW were not run at this size.
"""

from jaxrec.eval.search import Entry, SearchConfig
from jaxrec.retrieval.index_choice import IndexConfig

config = SearchConfig(
    name="search_1m57",
    n=1_570_000,
    dim=768,
    queries=1000,
    plan=10_000_000,
    work="runs/search_1m57",
    entries=(
        Entry(
            "PQ fast-scan",
            IndexConfig(kind="flat", code="pq_fast", m=192, train_rows=65_536),
            candidates=(50, 100, 150, 300, 600),
            encoders=("float32", "bfloat16"),
        ),
        Entry(
            "PQ fast-scan, a quarter",
            IndexConfig(kind="flat", code="pq_fast", m=192, train_rows=65_536),
            candidates=(50, 100, 150, 300),
            n=392_500,
        ),
        Entry("Flat", IndexConfig(kind="flat", code="none"), queries=50),
        Entry(
            "IVF, PQ fast-scan",
            IndexConfig(kind="ivf", code="pq_fast", nlist=2048, m=192, train_rows=65_536),
            nprobe=(64, 256, 512, 1024, 2048),
            candidates=(600,),
            queries=500,
        ),
        Entry(
            "IVF, SQ8",
            IndexConfig(kind="ivf", code="sq8", nlist=2048, train_rows=65_536),
            nprobe=(32, 64, 128, 256, 512),
            queries=300,
        ),
        Entry(
            "HNSW, SQ8",
            IndexConfig(kind="hnsw", code="sq8", links=32, build_ef=80),
            ef=(32, 64, 128, 256, 512),
            n=100_000,
        ),
    ),
)

"""A toy of the search benchmark: 6,000 generated vectors, every kind of index.

python -m eval.search configs/search/search_sample.py

2 CPU cores, half a minute; shows that all parts work together
"""

from jaxrec.eval.search import Entry, SearchConfig
from jaxrec.retrieval.index_choice import IndexConfig

config = SearchConfig(
    name="search_sample",
    n=6000,
    dim=64,
    queries=100,
    rounds=1,
    work="runs/search_sample",
    out="runs/search_sample",
    entries=(
        Entry("Flat", IndexConfig(kind="flat", code="none")),
        Entry("IVF, SQ8", IndexConfig(kind="ivf", code="sq8", nlist=32), nprobe=(1, 4, 16)),
        Entry(
            "IVF, PQ fast-scan",
            IndexConfig(kind="ivf", code="pq_fast", nlist=32),
            nprobe=(4, 16),
            candidates=(50, 200),
        ),
        Entry("HNSW, SQ8", IndexConfig(kind="hnsw", code="sq8", links=8), ef=(20, 80), n=3000),
    ),
)

"""Floor 2: one search over several indexes (shards of a catalogue), at once, merged."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float

from jaxrec.retrieval import ranked
from jaxrec.retrieval.errors import SearchError
from jaxrec.retrieval.index import Index
from jaxrec.retrieval.partitions import Where
from jaxrec.types import Shortlist


def search_shards(
    shards: Sequence[Index],
    q_BD: Float[np.ndarray, "B D"],
    k: int,
    where: Where | None = None,
    *,
    threads: int = 1,
) -> Shortlist:
    """The k best items over all shards: the same as one index over all of their items, if each shard is exact.

    threads: how many shards are searched at a time (each search uses FAISS's own threads besides). An item that lies
    in two shards is returned once, with its better score. Raises SearchError for shards of different widths.
    shards: indexes of parts of the items. q_BD: the queries. where: which labels an item must have.
    """
    if not shards:
        raise SearchError("there are no shards to search")
    widths = sorted({shard.dim for shard in shards})
    if len(widths) > 1:
        raise SearchError(f"the shards' vectors have different widths: {widths}")
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(lambda shard: shard.search(q_BD, k, where), shards))
    else:
        parts = [shard.search(q_BD, k, where) for shard in shards]
    return ranked.merge(parts, k)

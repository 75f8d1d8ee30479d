"""Floor 2: exact top-k in JAX, the table of vectors split by row over a mesh; on a CPU the fastest exact search, too.

Each device multiplies its own rows with all queries, finds its own k best, and only those (k numbers a device and
query) meet. `jax.lax.top_k` over a hundred thousand scores costs a CPU more than the product: the maxima of runs of
rows are ranked first, then the k best runs, which must hold the k best rows.
"""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from jaxrec.retrieval.top_k import SearchError
from jaxrec.types import Shortlist

if TYPE_CHECKING:
    from jax.sharding import Mesh

_RUN = 64
_AXES = ("data", "fsdp")  # of the mesh: the same that split a batch and a table


class DeviceTopK:
    """The rows of `vectors_ID` on the devices of `mesh` (None: the first device); an item is its row.

    The table goes over in pieces of `chunk` rows, so that a search holds B x chunk scores at a time, never B x I. On a
    CPU a float32 piece shares the memory of `vectors_ID`, which must not be written to afterwards.
    """

    def __init__(
        self, vectors_ID: Float[np.ndarray, "I D"], mesh: "Mesh | None" = None, chunk: int = 262_144
    ):
        if vectors_ID.ndim != 2 or chunk < 1:
            raise SearchError(f"vectors {vectors_ID.shape} in pieces of {chunk} rows")
        self._n, self.dim = vectors_ID.shape
        self._mesh, self._chunk = mesh, chunk
        starts = range(0, self._n, chunk)
        self._pieces = [(at, _placed(vectors_ID[at : at + chunk], mesh)) for at in starts]

    def __len__(self) -> int:
        return self._n

    def search(self, q_BD: Float[np.ndarray, "B D"], k: int) -> Shortlist:
        """The k rows with the highest inner products, best first; item -1 where there are fewer rows.

        One program is compiled for each number of queries, k and shape of a piece. Raises SearchError.
        """
        if k < 1:
            raise SearchError(f"k is {k}; it is at least 1")
        if q_BD.ndim != 2 or q_BD.shape[1] != self.dim:
            raise SearchError(f"queries {q_BD.shape} against vectors of width {self.dim}")
        if not np.isfinite(q_BD).all():
            raise SearchError("a query holds numbers that are not finite")
        b, few = len(q_BD), min(k, self._n)
        items_BK, scores_BK = np.full((b, k), -1, np.int64), np.full((b, k), -np.inf, np.float32)
        if not b or not few:
            return Shortlist(items_BK, scores_BK)
        q = np.asarray(q_BD, np.float32)
        scores, rows = scores_BK[:, :few], items_BK[:, :few].astype(np.int32)
        for start, piece in self._pieces:
            end = min(start + self._chunk, self._n)
            step = _step(self._mesh, few, padded=len(piece) > end - start)
            scores, rows = step(piece, q, scores, rows, np.int32(start), np.int32(end))
        # sorted already, the smaller item first where scores are equal
        scores_BK[:, :few], items_BK[:, :few] = scores, rows
        items_BK[np.isneginf(scores_BK)] = -1
        return Shortlist(items_BK, scores_BK)


def _parts(mesh: "Mesh | None") -> int:
    return 1 if mesh is None else int(np.prod([mesh.shape[axis] for axis in _AXES]))


def _placed(piece_ID: np.ndarray, mesh: "Mesh | None") -> Any:
    """A piece on its devices; zeros (which no search returns) fill the last rows where the devices don't divide it."""
    import jax
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    if mesh is None:
        return jax.device_put(np.ascontiguousarray(piece_ID, np.float32))
    parts = _parts(mesh)
    shape = (-(-len(piece_ID) // parts) * parts, piece_ID.shape[1])

    def part(index: Sequence[slice]) -> np.ndarray:
        start, stop, _ = index[0].indices(shape[0])
        rows = np.zeros((stop - start, shape[1]), np.float32)
        given = piece_ID[start : min(stop, len(piece_ID))]
        rows[: len(given)] = given
        return rows

    return jax.make_array_from_callback(shape, NamedSharding(mesh, P(_AXES)), part)


@functools.lru_cache(maxsize=32)
def _step(mesh: "Mesh | None", k: int, padded: bool) -> Any:
    """(piece, queries, the best so far, first row, row after the last) -> the best with this piece's."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import PartitionSpec as P

    def local(x_ID: Any, q_BD: Any, start: Any, end: Any) -> tuple[Any, Any]:
        # Several queries: items first, which a CPU multiplies in a sixth to a half less time; one query: the reverse.
        axis = 1 if q_BD.shape[0] == 1 else 0
        left, right = (q_BD, x_ID) if axis else (x_ID, q_BD)
        # Accelerators multiply f32 in fewer bits by default, and an exact search would not be exact.
        scores = jnp.matmul(left, right.T, precision=jax.lax.Precision.HIGHEST)
        if mesh is not None:
            start = start + jax.lax.axis_index(_AXES).astype(jnp.int32) * x_ID.shape[0]
        if padded:
            here_I = start + jnp.arange(x_ID.shape[0]) < end
            scores = jnp.where(jnp.expand_dims(here_I, 1 - axis), scores, -jnp.inf)
        best_BK, row_BK = top_k_by_runs(scores, min(k, x_ID.shape[0]), axis=axis)
        return best_BK, row_BK + start

    spread = local
    if mesh is not None:
        shape = P(None, _AXES)
        spread = jax.shard_map(
            local, mesh=mesh, in_specs=(P(_AXES), P(), P(), P()), out_specs=(shape, shape)
        )

    @jax.jit
    def step(piece: Any, q_BD: Any, scores: Any, rows: Any, start: Any, end: Any) -> Any:
        new_scores, new_rows = spread(piece, q_BD, start, end)
        scores = jnp.concatenate([scores, new_scores], 1)
        rows = jnp.concatenate([rows, new_rows], 1)
        if mesh is not None:  # k numbers of each device: small enough to be everywhere
            whole = jax.sharding.NamedSharding(mesh, P())
            scores, rows = jax.lax.with_sharding_constraint((scores, rows), (whole, whole))
        best, at = jax.lax.top_k(scores, k)
        return best, jnp.take_along_axis(rows, at, 1)

    return step


def top_k_by_runs(scores: Any, k: int, *, run: int = _RUN, axis: int = 1) -> tuple[Any, Any]:
    """`jax.lax.top_k` along an axis of [B, I] (axis 1) or [I, B] (axis 0), by way of the maxima of runs.

    run: neighbouring scores of which the maximum is looked at first.

    Returns scores and indices (int32), both [B, k], best first.
    """
    import jax
    import jax.numpy as jnp

    n, b = scores.shape[axis], scores.shape[1 - axis]
    runs = n // run
    # With so few runs all of them would be looked into anyway.
    if runs <= k:
        best, at = jax.lax.top_k(scores if axis else scores.T, k)
        return best, at.astype(jnp.int32)
    # What is left over at the end of the runs stands beside the best runs, so that nothing large is padded or copied.
    whole, tail = jnp.split(scores, [runs * run], axis=axis)
    if axis:
        whole_BRX = whole.reshape(b, runs, run)
        _, run_BK = jax.lax.top_k(whole_BRX.max(-1), k)
        inside = jnp.take_along_axis(whole_BRX, run_BK[..., None], 1)
    else:
        whole_RXB = whole.reshape(runs, run, b)
        _, run_BK = jax.lax.top_k(whole_RXB.max(1).T, k)
        inside = whole_RXB[
            run_BK[..., None], jnp.arange(run)[None, None], jnp.arange(b)[:, None, None]
        ]
        tail = tail.T
    row_BX = (run_BK[..., None] * run + jnp.arange(run)[None, None]).reshape(b, -1)
    tail_BX = jnp.broadcast_to(jnp.arange(runs * run, n)[None], (b, n - runs * run))
    best, at = jax.lax.top_k(jnp.concatenate([inside.reshape(b, -1), tail], 1), k)
    rows = jnp.take_along_axis(jnp.concatenate([row_BX, tail_BX], 1), at, 1)
    return best, rows.astype(jnp.int32)

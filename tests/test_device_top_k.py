import jax
import numpy as np
import pytest

from jaxrec import mesh as meshes
from jaxrec.retrieval.device_top_k import DeviceTopK, top_k_by_runs
from jaxrec.retrieval.top_k import SearchError

N, D, K = 1003, 12, 7  # 1003 rows divide neither by 8 devices nor by a chunk


@pytest.fixture(scope="module")
def world():
    """Vectors, queries, and numpy's answer."""
    rng = np.random.default_rng(0)
    x, q = (
        rng.standard_normal((N, D)).astype(np.float32),
        rng.standard_normal((9, D)).astype(np.float32),
    )
    scores = q @ x.T
    order = np.argsort(-scores, 1)[:, :K]
    return x, q, order, np.take_along_axis(scores, order, 1)


@pytest.mark.parametrize("axes", [None, (2, 4, 1), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("chunk", [4096, 250])
def test_any_mesh_and_chunk_gives_what_numpy_gives(axes, chunk, world):
    x, q, order, scores = world
    mesh = None if axes is None else meshes.make(meshes.MeshConfig(*axes))
    table = DeviceTopK(x, mesh, chunk)
    for b in (9, 1) if chunk == 250 else (9,):  # the product is written differently for one query
        found = table.search(q[:b], K)
        np.testing.assert_array_equal(found.items_BJ, order[:b])
        np.testing.assert_allclose(found.scores_BJ, scores[:b], rtol=1e-5)
    if mesh is not None:  # no device holds more than its share
        rows = {shard.data.shape[0] for shard in table._pieces[0][1].addressable_shards}
        assert rows == {-(-min(chunk, N) // (axes[0] * axes[1]))}


def test_fewer_rows_than_k_and_negative_scores():
    mesh = meshes.make(meshes.MeshConfig(8, 1, 1))
    x = np.array(
        [[1.0, 0], [3, 0], [2, 0]], np.float32
    )  # three rows on eight devices: five have none
    for where in (None, mesh):
        found = DeviceTopK(x, where).search(np.array([[-1.0, 0]], np.float32), 5)
        assert found.items_BJ.tolist() == [[0, 2, 1, -1, -1]]
        assert found.scores_BJ[0, :3].tolist() == [-1, -2, -3]
    assert (DeviceTopK(x[:0]).search(np.ones((2, 2), np.float32), 3).items_BJ == -1).all()
    assert DeviceTopK(x).search(np.ones((0, 2), np.float32), 3).items_BJ.shape == (0, 3)


@pytest.mark.parametrize("n", [128, 130])
def test_runs_are_jaxs_own_top_k(n):
    rng = np.random.default_rng(n)
    scores = rng.permuted(np.tile(np.arange(n, dtype=np.float32), (3, 1)), axis=1)
    scores[2] = -np.inf
    scores[2, 5] = 1
    wanted, wanted_at = jax.lax.top_k(scores, 6)
    for axis, given in {1: scores, 0: scores.T}.items():
        best, at = jax.jit(lambda s, axis=axis: top_k_by_runs(s, 6, run=8, axis=axis))(given)
        np.testing.assert_array_equal(best, wanted)
        np.testing.assert_array_equal(at[:2], wanted_at[:2])


def test_bad_input_is_said(world):
    x, q, _, _ = world
    table = DeviceTopK(x[:8])
    for match, call in {
        "k is 0": lambda: table.search(q, 0),
        "against vectors of width": lambda: table.search(q[:, :3], 2),
        "not finite": lambda: table.search(q * np.nan, 2),
        "in pieces of 0": lambda: DeviceTopK(x, chunk=0),
    }.items():
        with pytest.raises(SearchError, match=match):
            call()

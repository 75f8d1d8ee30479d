"""Semantic ids: what the codebooks do, step by step; that tuples end up distinct; that published ones are read."""

import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.data import item_codes
from jaxrec.data.item_codes import ItemCodes, ItemCodesError
from jaxrec.losses.quantization import commitment, rotate, straight_through
from jaxrec.models.items import semantic_id
from jaxrec.models.items.semantic_id import Codebooks, RqVae, RqVaeConfig, begin, commit, quantise
from jaxrec.objectives.semantic_id import semantic_id as objective
from jaxrec.recommenders.item_codes import SemanticIdConfig, make, read_or_make
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

TINY = RqVaeConfig(d_in=8, hidden=(16,), d_latent=4, sizes=(4, 3), decay=0.5)


KEYS = jax.random.split(jax.random.key(1), 16)


def clusters(items: int = 64, seed: int = 0) -> np.ndarray:
    """Vectors around four far points, each with three near ones: two levels of four and three codes say it all."""
    rng = np.random.default_rng(seed)
    far, near = 8 * rng.standard_normal((4, 8)), rng.standard_normal((3, 8))
    which = rng.integers(0, 12, items)
    noise = 0.01 * rng.standard_normal((items, 8))
    return (far[which // 3] + near[which % 3] + noise).astype(np.float32)


def error_of(x_IE: np.ndarray, code_QCE: np.ndarray) -> float:
    _, _, chosen = quantise(jnp.asarray(x_IE), jnp.asarray(code_QCE))
    return float(jnp.square(jnp.asarray(x_IE) - chosen.sum(0)).mean())


# ------------------------------------------------------------------------------------- codebooks


def test_kmeans_start_beats_a_random_one():
    x_IE = clusters()
    books = begin(RqVaeConfig(sizes=(4, 3)), x_IE, None, seed=0)
    placed = error_of(x_IE, books.code_QCE)
    rng = np.random.default_rng(1)
    random = min(
        error_of(x_IE, x_IE[rng.integers(0, len(x_IE), (2, 4))] * [[[1.0]], [[0.1]]])
        for _ in range(5)
    )
    assert placed < 0.01 * x_IE.var() and placed < random / 5
    # the code that level 1 lacks is never chosen
    codes_IQ, _, _ = quantise(jnp.asarray(x_IE), books.code_QCE)
    assert np.asarray(codes_IQ).max(0).tolist() == [3, 2]


def test_quantise_by_hand():
    code_QCE = jnp.array([[[0.0, 0.0], [4.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])
    codes, residual, chosen = quantise(jnp.array([[4.9, 0.2], [0.1, 0.8]]), code_QCE)
    np.testing.assert_array_equal(codes, [[1, 1], [0, 0]])
    np.testing.assert_allclose(residual[1], [[0.9, 0.2], [0.1, 0.8]], atol=1e-6)
    np.testing.assert_allclose(chosen.sum(0), [[5.0, 0.0], [0.0, 1.0]])
    # 0.9^2 + 0.2^2 and 0.1^2 + 0.8^2 at level 0, 0.1^2 + 0.2^2 twice at level 1
    assert float(commitment(residual, chosen)) == pytest.approx(0.85 + 0.65 + 0.05 + 0.05, abs=1e-5)


def books_of(code_QCE, count=1.0, step=0) -> Codebooks:
    code_QCE = jnp.asarray(code_QCE, jnp.float32)
    count_QC = jnp.full(code_QCE.shape[:2], count)
    return Codebooks(code_QCE, count_QC, code_QCE * count, jnp.asarray(step))


def stats(count_QC, sum_QCE, spare=9.0, parts=1.0) -> dict:
    sum_QCE = jnp.asarray(sum_QCE, jnp.float32)
    return {
        "count_QC": jnp.asarray(count_QC, jnp.float32),
        "sum_QCE": sum_QCE,
        "spare_QCE": jnp.full_like(sum_QCE, spare * parts),
        "parts": jnp.asarray(parts),
    }


def test_running_means_are_those_by_hand():
    cfg = RqVaeConfig(sizes=(2,), decay=0.75, revive_every=0)
    books = books_of([[[1.0], [5.0]]], count=2.0)
    after = commit(cfg, books, stats([[4.0, 0.0]], [[[12.0], [0.0]]]))
    # counts .75 x 2 + .25 x n; sums .75 x 2 x code + .25 x sum of residuals
    np.testing.assert_allclose(after.count_QC, [[2.5, 1.5]])
    np.testing.assert_allclose(after.code_QCE[0, :, 0], [(1.5 + 3.0) / 2.5, 5.0])
    assert int(after.step) == 1


def test_dead_codes_revive_when_they_are_looked_at():
    cfg = RqVaeConfig(sizes=(3, 2), decay=0.5, revive=0.2, revive_every=2)
    count_QC = jnp.array([[1.0, 0.3, 1.0], [1.0, 1.0, 0.0]])
    code_QCE = jnp.arange(6.0).reshape(2, 3, 1)
    books = Codebooks(code_QCE, count_QC, code_QCE * count_QC[..., None], jnp.asarray(0))
    none = stats([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]], [[[0.0], [0], [2]], [[3], [4], [0]]], parts=2)
    early = commit(cfg, books, none)  # step 1: not due
    assert float(early.code_QCE[0, 1, 0]) == pytest.approx(1.0)
    late = commit(cfg, early, none)  # step 2: due, its count has sunk to .075
    np.testing.assert_allclose(late.code_QCE[0, :, 0], [0.0, 9.0, 2.0])
    assert float(late.count_QC[0, 1]) == 1.0
    assert float(late.code_QCE[1, 2, 0]) == 5.0  # no code of a level of two: not dead, but absent


# -------------------------------------------------------------------------------------- gradients


def test_rotation_trick():
    z_BE = jnp.array([[3.0, 0.0], [1.0, 2.0], [0.0, 0.0]])
    code_BE = jnp.array([[0.0, 1.5], [2.0, 1.0], [1.0, 1.0]])
    pulled = jnp.array([[1.0, 2.0], [-1.0, 0.5], [3.0, 4.0]])
    for through in (rotate, straight_through):
        out, back = jax.vjp(lambda z, f=through: f(z, code_BE), z_BE)
        np.testing.assert_allclose(out, code_BE, rtol=1e-6)
        (grad_BE,) = back(pulled)
        if through is straight_through:
            np.testing.assert_array_equal(grad_BE, pulled)
            continue
        # row 0: a quarter turn to the left, shrunk by half: the gradient turns back
        np.testing.assert_allclose(grad_BE[0], [0.5 * 2.0, 0.5 * -1.0], atol=1e-6)
        cosine = lambda a, b: np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
        for row in (0, 1):  # the angle between gradient and vector is kept
            told = cosine(pulled[row], code_BE[row])
            assert cosine(grad_BE[row], z_BE[row]) == pytest.approx(told, abs=1e-6)
        np.testing.assert_array_equal(grad_BE[2], pulled[2])  # a zero has no direction
    assert not np.any(jax.grad(lambda c: rotate(z_BE, c).sum())(code_BE))


def test_objective_moves_what_it_should():
    x_BD = jnp.asarray(clusters(16))
    for kind in ("ema", "gradient"):
        cfg = RqVaeConfig(d_in=8, hidden=(16,), d_latent=4, sizes=(4, 3), codebook=kind)
        model = RqVae(cfg)
        params = model.init(jax.random.key(0), x_BD, None)["params"]
        trained = params.get("codebook")
        books = begin(
            cfg, np.asarray(model.apply({"params": params}, x_BD, method="encode")), trained, 0
        )
        loss, weigh = objective(model)
        grads, aux = jax.jit(jax.grad(loss, has_aux=True))(
            params, None, books, x_BD, weigh(x_BD), KEYS
        )
        assert all(np.any(np.asarray(g)) for g in jax.tree.leaves(grads))
        assert ("codebook" in grads) == (kind == "gradient")
        np.testing.assert_array_equal(aux.stats["count_QC"].sum(1), [16, 16])


# ------------------------------------------------------------------------------------- collisions

CROWDED = ItemCodes(np.array([[0, 0], [0, 0], [1, 1], [0, 0], [1, 0]]), (2, 3))


def test_extra_code_numbers_the_items_of_a_tuple():
    whole = item_codes.extra_code(CROWDED)
    assert whole.sizes == (2, 3, 3) and item_codes.collision_rate(whole.codes_IQ) == 0
    assert whole.codes_IQ[:, 2].tolist() == [0, 1, 0, 2, 0]
    assert item_codes.collision_rate(CROWDED.codes_IQ) == pytest.approx(2 / 5)


def test_reassign_takes_the_cheapest_distinct_codes():
    distance_IC = np.array([[0.0, 5, 9], [0, 1, 9], [9, 0, 9], [0, 4, 2], [0, 9, 9]], float)
    whole = item_codes.reassign(CROWDED, distance_IC)
    # 0 keeps code 0, 1 moves to 1, 3 to 2: total 3, every other way costs more
    assert whole.codes_IQ.tolist() == [[0, 0], [0, 1], [1, 1], [0, 2], [1, 0]]
    full = ItemCodes(np.zeros((4, 2), int), (2, 3))
    with pytest.raises(ItemCodesError, match="take more levels"):
        item_codes.reassign(full, np.zeros((4, 3)))


def test_usage_by_hand():
    told = item_codes.usage(CROWDED.codes_IQ, CROWDED.sizes)
    assert told["usage"] == [1.0, pytest.approx(2 / 3)]
    entropy = -(0.6 * np.log(0.6) + 0.4 * np.log(0.4))
    assert told["perplexity"][0] == pytest.approx(np.exp(entropy))


# ------------------------------------------------------------------------------------------- whole


@pytest.mark.parametrize("kind", ["rqvae", "rqkmeans"])
def test_make_tells_planted_clusters_apart(kind, tmp_path):
    x_IE = clusters()
    cfg = SemanticIdConfig(
        kind, TINY, warm=60, rows=64, opt=OptConfig(lr=1e-2), collisions="extra",
        loop=LoopConfig(steps=60, progress=False),
    )  # fmt: skip
    codes = read_or_make(tmp_path / "ids", lambda: x_IE, cfg, 64)
    assert item_codes.collision_rate(codes.codes_IQ) == 0
    assert codes.facts["unexplained"] < 0.1 and codes.facts["collisions_before"] > 0.7
    assert codes.facts["usage"][0] == 1.0
    # items of one far point share the first code
    far = np.round(x_IE / 6).astype(int)
    for group in np.unique(far, axis=0)[:3]:
        same = (far == group).all(1)
        assert np.bincount(codes.codes_IQ[same, 0]).max() > 0.8 * same.sum()
    again = read_or_make(tmp_path / "ids", None, cfg, 64)  # read, not made
    np.testing.assert_array_equal(again.codes_IQ, codes.codes_IQ)
    with pytest.raises(ItemCodesError, match="names 64 items"):
        read_or_make(tmp_path / "ids", None, cfg, 65)


def test_normalised_residuals_spread_over_the_codes():
    rng = np.random.default_rng(0)
    x_IE = (rng.standard_normal((400, 6)) * rng.exponential(1, (400, 1)) ** 2).astype(np.float32)
    perplexity = [
        item_codes.usage(semantic_id.residual_kmeans(x_IE, (8, 8), normalised=n).codes_IQ, (8, 8))[
            "perplexity"
        ][1]
        for n in (False, True)
    ]
    assert perplexity[1] > perplexity[0]


DEGENERATE = {
    "at least 2": np.ones((1, 4), np.float32),
    "are the same": np.full((12, 4), 0.1, np.float32),
    "1 items are not finite": np.where(np.eye(12, 4, 3) == 1, np.nan, np.arange(4.0))[:2],
    "too large or too small": np.eye(12, 4) * 1e-30,
}


@pytest.mark.parametrize("why", DEGENERATE)
def test_vectors_that_tell_nothing_apart_are_refused(why):
    for kind in ("rqkmeans", "rqvae"):
        with pytest.raises(ItemCodesError, match=why):
            make(DEGENERATE[why], SemanticIdConfig(kind=kind))


def test_few_distinct_vectors_are_their_own_centres():
    vectors = np.zeros((12, 4), np.float32)
    vectors[3, 0] = 1
    found = semantic_id.residual_kmeans(vectors, (4, 4))
    assert len(found.centres[0]) == 2 and not found.left_IE.any()
    assert (found.codes_IQ[:, 0] == found.codes_IQ[3, 0]).sum() == 1


def test_published_ids(tmp_path):
    path = tmp_path / "ids.json.gz"
    rows = {"0": ["<a_183>", "<b_70>"], "1": ["<a_3>", "<b_255>"]}
    path.write_bytes(gzip.compress(json.dumps(rows).encode()))
    codes = item_codes.read_published(path, 2)
    assert codes.codes_IQ.tolist() == [[183, 70], [3, 255]] and codes.sizes == (256, 256)
    with pytest.raises(ItemCodesError, match="no codes for item '2'"):
        item_codes.read_published(path, 3)
    path.write_bytes(b"not gzip")
    with pytest.raises(ItemCodesError, match="holds no semantic ids"):
        item_codes.read_published(path, 2)
    with pytest.raises(ItemCodesError, match="no table of semantic ids"):
        item_codes.load(tmp_path)


def test_published_ids_of_beauty(data_dir):
    codes = item_codes.read_published(data_dir / "amazon14-beauty/letter_semantic_ids.json", 12101)
    assert codes.sizes == (256,) * 4
    assert len(np.unique(codes.codes_IQ, axis=0)) == 12088  # the data set's own README

import numpy as np
import pytest

from jaxrec.retrieval.rerank import reciprocal_rank_fusion, rerank, weighted_z
from jaxrec.retrieval.top_k import SearchError
from jaxrec.types import Shortlist

ITEMS = np.array([[10, 11, 12, 13], [20, 21, -1, -1]])
FOUND = Shortlist(ITEMS, np.array([[0.9, 0.8, 0.7, 0.6], [0.5, 0.4, -np.inf, -np.inf]], np.float32))
TASTE = np.array([[1.0, 2.0, 3.0, 5.0], [1.0, 9.0, 99.0, 99.0]])


def test_one_ranker_alone_gives_its_own_order():
    for method in ("z", "rrf"):
        by_taste = rerank(FOUND, {"taste": TASTE}, {"taste": 1.0}, 4, method=method)
        assert by_taste.items_BJ.tolist() == [[13, 12, 11, 10], [21, 20, -1, -1]]
        by_search = rerank(FOUND, {"taste": TASTE}, {"search": 2.0}, 3, method=method)
        assert by_search.items_BJ.tolist() == [[10, 11, 12], [20, 21, -1]]


def test_z_scores_do_not_depend_on_a_rankers_scale():
    weights = {"a": 1.0, "b": 0.5}
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3, 6))
    plain = weighted_z({"a": a, "b": b}, weights)
    np.testing.assert_allclose(
        plain, weighted_z({"a": a * 1e4 - 7, "b": b / 50}, weights), atol=1e-4
    )
    wanted = (a - a.mean(1, keepdims=True)) / a.std(1, keepdims=True)
    np.testing.assert_allclose(weighted_z({"a": a}, {"a": 1.0}), wanted, atol=1e-5)
    # One opinion of everything, rounding aside, is no opinion.
    flat = np.full((3, 6), 0.1) * np.array([1, 1 + 1e-9, 1, 1, 1, 1])
    np.testing.assert_array_equal(
        weighted_z({"a": a, "b": flat}, weights), weighted_z({"a": a}, {"a": 1.0})
    )


def test_reciprocal_ranks_by_hand():
    scores = {"a": np.array([[3.0, 2.0, 2.0, np.nan]]), "b": np.array([[1.0, 4.0, 3.0, 2.0]])}
    fused = reciprocal_rank_fusion(scores, {"a": 2.0, "b": 1.0})
    wanted = [2 / 61 + 1 / 64, 2 / 62.5 + 1 / 61, 2 / 62.5 + 1 / 62, 1 / 63]
    np.testing.assert_allclose(fused[0], wanted, rtol=1e-6)


def test_a_ranker_without_an_opinion_counts_as_its_mean():
    partial = np.array([[np.nan, 4.0, 2.0, np.nan], [np.nan, np.nan, np.nan, np.nan]])
    found = rerank(FOUND, {"taste": partial}, {"taste": 1.0, "search": 0.01}, 4)
    assert found.items_BJ.tolist() == [[11, 10, 13, 12], [20, 21, -1, -1]]
    assert np.isfinite(found.scores_BJ[0]).all()


def test_bad_input_is_said():
    for match, call in {
        "weight is given to 'tast'": lambda: rerank(FOUND, {"taste": TASTE}, {"tast": 1.0}, 2),
        "no ranker has": lambda: rerank(FOUND, {"taste": TASTE}, {"taste": 0.0}, 2),
        "scores of 'taste' are": lambda: rerank(FOUND, {"taste": TASTE[:, :3]}, {"taste": 1.0}, 2),
    }.items():
        with pytest.raises((SearchError, TypeError), match=match):
            call()

import itertools

import numpy as np
import pytest

from jaxrec.retrieval.diversity import diversify, mean_distance
from jaxrec.retrieval.top_k import SearchError
from jaxrec.types import Shortlist

METHODS = ("distance", "mmr", "dpp")


def shortlist(b: int, j: int, seed: int = 0) -> Shortlist:
    rng = np.random.default_rng(seed)
    items = np.argsort(rng.random((b, 1000)), 1)[:, :j]
    return Shortlist(items, -np.sort(-rng.random((b, j)).astype(np.float32), 1))


def vectors(b: int, j: int, d: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((b, j, d)).astype(np.float32)


def cosine(v: np.ndarray) -> np.ndarray:
    v = v / np.linalg.norm(v, axis=-1, keepdims=True)
    return v @ v.T


def by_the_letter(items: np.ndarray, v: np.ndarray, k: int) -> list[int]:
    """The rule of the specification, one loop after the other."""
    close, left = cosine(v.astype(np.float64)), []
    for j in range(len(items)):
        if all(close[i, j] <= 0.95 for i in left):
            left.append(j)
    others = lambda j: [1 - close[i, j] for i in left if i != j]
    score = {j: float(np.mean(others(j))) if len(left) > 1 else 1.0 for j in left}
    return [int(items[j]) for j in sorted(left, key=lambda j: -score[j])[:k]]


def test_distance_is_the_rule_of_the_specification():
    found, v = shortlist(40, 30), vectors(40, 30, 4)  # in 4 dimensions many pairs lie above 0.95
    best = diversify(found, v, 10)
    removed = 0
    for row in range(40):
        wanted = by_the_letter(found.items_BJ[row], v[row], 10)
        assert best.items_BJ[row][: len(wanted)].tolist() == wanted
        removed += (np.triu(cosine(v[row]), 1) > 0.95).any()
    assert removed > 20
    place = {int(i): s for i, s in zip(found.items_BJ[0], found.scores_BJ[0], strict=True)}
    real = best.items_BJ[0] >= 0
    came_with = [place[i] for i in best.items_BJ[0][real].tolist()]
    assert came_with == best.scores_BJ[0][real].tolist()


def test_mmr_is_carbonell_and_goldsteins_greedy():
    found, v = shortlist(5, 12), vectors(5, 12)
    best = diversify(found, v, 6, method="mmr", lam=0.4, duplicate=1.0)
    for row in range(5):
        close, chosen = cosine(v[row]), []
        for _ in range(6):
            rest = [j for j in range(12) if j not in chosen]
            near = lambda j, chosen=chosen, close=close: max(
                (close[i, j] for i in chosen), default=0
            )
            score = {j: 0.4 * found.scores_BJ[row, j] - 0.6 * near(j) for j in rest}
            chosen.append(max(rest, key=score.get))
        assert best.items_BJ[row].tolist() == found.items_BJ[row][chosen].tolist()


def test_dpp_is_greedy_on_determinants():
    found, v = shortlist(4, 10), vectors(4, 10, 16)
    best = diversify(found, v, 5, method="dpp", lam=0.6, duplicate=1.0)
    for row in range(4):
        quality = np.exp(0.6 / 0.8 * found.scores_BJ[row].astype(np.float64))
        kernel = quality[:, None] * cosine(v[row].astype(np.float64)) * quality
        chosen: list[int] = []
        volume = lambda at, kernel=kernel: np.linalg.det(kernel[np.ix_(at, at)])
        for _ in range(5):
            rest = [j for j in range(10) if j not in chosen]
            _, best_j = max((volume([*chosen, j]), j) for j in rest)
            chosen.append(best_j)
        assert best.items_BJ[row].tolist() == found.items_BJ[row][chosen].tolist()


@pytest.mark.parametrize("method", METHODS)
def test_of_equal_things_the_best_one_stays(method):
    found, v = shortlist(1, 9), vectors(1, 3, 16).repeat(3, 1)
    best = diversify(found, v, 5, method=method)
    assert set(best.items_BJ[0].tolist()) == {*found.items_BJ[0][[0, 3, 6]].tolist(), -1}
    assert best.items_BJ[0, 3:].tolist() == [-1, -1] and np.isneginf(best.scores_BJ[0, 3:]).all()
    kept = diversify(found, v, 9, method=method, duplicate=1.0)
    assert set(kept.items_BJ[0].tolist()) == set(found.items_BJ[0].tolist())


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_rows_and_padding_changes_nothing(method):
    found, v = shortlist(6, 14), vectors(6, 14, 5)
    whole = diversify(found, v, 7, method=method)
    for row in range(6):
        one = Shortlist(found.items_BJ[row : row + 1], found.scores_BJ[row : row + 1])
        alone = diversify(one, v[row : row + 1], 7, method=method)
        np.testing.assert_array_equal(alone.items_BJ[0], whole.items_BJ[row])
    none = Shortlist(np.full((6, 4), -1), np.full((6, 4), -np.inf, np.float32))
    padded = Shortlist(
        np.concatenate([found.items_BJ, none.items_BJ], 1),
        np.concatenate([found.scores_BJ, none.scores_BJ], 1),
    )
    again = diversify(
        padded, np.concatenate([v, np.zeros((6, 4, 5), np.float32)], 1), 7, method=method
    )
    np.testing.assert_array_equal(again.items_BJ, whole.items_BJ)
    empty = diversify(none, np.zeros((6, 4, 5), np.float32), 3, method=method)
    assert (empty.items_BJ == -1).all()
    assert diversify(shortlist(2, 3), vectors(2, 3), 8, method=method).items_BJ.shape == (2, 8)
    assert diversify(shortlist(1, 1), vectors(1, 1), 2, method=method).items_BJ[0, 1] == -1
    assert (diversify(shortlist(0, 3), vectors(0, 3), 2, method=method).items_BJ).shape == (0, 2)


@pytest.mark.parametrize("method", ["mmr", "dpp"])
def test_lam_goes_from_relevance_to_difference(method):
    found, v = shortlist(8, 20), vectors(8, 20, 6)
    all_relevance = diversify(found, v, 6, method=method, lam=1.0, duplicate=1.0)
    np.testing.assert_array_equal(all_relevance.items_BJ, found.items_BJ[:, :6])
    spread = []
    for lam in (1.0, 0.5, 0.0):
        best = diversify(found, v, 6, method=method, lam=lam, duplicate=1.0)
        at = (found.items_BJ[:, None] == best.items_BJ[..., None]).argmax(-1)
        chosen = np.take_along_axis(v, at[..., None], 1)
        if method == "mmr":
            spread.append(mean_distance(chosen).mean())
        else:
            spread.append(
                np.mean([np.linalg.slogdet(cosine(one) + np.eye(6) * 1e-4)[1] for one in chosen])
            )
    assert spread[0] < min(spread[1:])


def test_equal_scores_go_to_the_earlier_one():
    v = np.eye(6, dtype=np.float32)[None]  # all as different as can be
    found = Shortlist(np.arange(6)[None] + 10, np.full((1, 6), 0.5, np.float32))
    for method in METHODS:
        assert diversify(found, v, 4, method=method).items_BJ.tolist() == [[10, 11, 12, 13]]


def test_mean_distance_is_over_pairs():
    v = vectors(1, 5)
    pairs = [1 - cosine(v[0])[i, j] for i, j in itertools.combinations(range(5), 2)]
    np.testing.assert_allclose(mean_distance(v), [np.mean(pairs)], rtol=1e-5)
    assert mean_distance(v[:, :1]) == 0


def test_bad_input_is_said():
    found, v = shortlist(2, 3), vectors(2, 3)
    for match, call in {
        "k is 0": lambda: diversify(found, v, 0),
        "lam is 2": lambda: diversify(found, v, 1, lam=2.0),
        "do not belong": lambda: diversify(found, v[:, :2], 1),
        "is not finite": lambda: diversify(found, v * np.nan, 1),
    }.items():
        with pytest.raises(SearchError, match=match):
            call()

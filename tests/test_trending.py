import threading

import numpy as np
import pytest

from jaxrec.retrieval.index import Index
from jaxrec.retrieval.index_choice import IndexConfig
from jaxrec.retrieval.top_k import SearchError
from jaxrec.retrieval.trending import Trending

DAY = 86_400.0


@pytest.fixture
def index():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 8)).astype(np.float32)
    x[5] = x[6] = x[7]  # equal vectors
    return Index.build(x, np.arange(40) * 10, config=IndexConfig(kind="exact", threads=1))


def test_an_event_halves_with_every_half_life():
    rng = np.random.default_rng(0)
    items, times = rng.integers(0, 9, 300), rng.random(300) * 20 * DAY
    now = 21 * DAY
    wanted = np.bincount(items, 2.0 ** ((times - now) / (2 * DAY)), minlength=9)
    order = np.argsort(-wanted)
    for parts in (1, 7):  # all at once, or piece by piece, out of order
        trending = Trending(half_life_s=2 * DAY)
        for part in np.array_split(rng.permutation(300), parts):
            trending.count(items[part], times[part])
        found, heat = trending.heat(now, 4)
        assert found.tolist() == order[:4].tolist()
        np.testing.assert_allclose(heat, wanted[order[:4]], rtol=1e-5)


def test_what_is_hot_now_passes_what_was_hot():
    trending = Trending(half_life_s=DAY)
    trending.count(np.full(50, 1), np.zeros(50))
    trending.count(np.array([2, 2]), np.full(2, 10 * DAY))
    assert trending.heat(0.0, 1)[0].tolist() == [2]  # seen from the past, the future is large
    assert trending.heat(10 * DAY)[0].tolist() == [2, 1]


def test_refresh_finds_the_neighbours_that_a_search_finds(index):
    trending = Trending(DAY)
    trending.count(np.array([50, 50, 50, 30, 30, 999, 999, 999, 999, 120]), np.zeros(10))
    assert trending.top(2).items_BJ.tolist() == [[-1, -1]] and trending.neighbours(50) is None
    assert trending.refresh(index, 0.0, n=2, k=3) == 2  # 999 is in no index
    assert trending.top(3).items_BJ.tolist() == [[50, 30, -1]]
    np.testing.assert_allclose(trending.top(2).scores_BJ, [[3, 2]])
    for item in (50, 30):
        found = index.search(index.vectors(np.array([item])), 4)
        wanted = [i for i in found.items_BJ[0].tolist() if i != item][:3]
        assert trending.neighbours(item).items_BJ.tolist() == [wanted]
    assert {60, 70} <= set(trending.neighbours(50).items_BJ[0].tolist())
    assert trending.neighbours(120) is None  # not among the first two
    index.remove(np.array([50]))
    assert trending.refresh(index, 0.0, n=2) == 2 and trending.neighbours(50) is None


def test_faint_counts_are_forgotten(index):
    trending = Trending(DAY)
    trending.count(np.arange(30) * 10, np.zeros(30))
    trending.count(np.array([0]), np.array([40 * DAY]))
    assert len(trending) == 30
    assert trending.refresh(index, 40 * DAY) == 1 and len(trending) == 1


def test_readers_and_writers_may_meet(index):
    trending = Trending(DAY)
    write = lambda: [trending.count(np.array([10, 20]), np.full(2, float(t))) for t in range(300)]
    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        trending.refresh(index, 300.0)
        assert set(trending.top(2).items_BJ[0].tolist()) <= {10, 20, -1}
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(trending.heat(300.0)[1], [1200, 1200], rtol=5e-3)


def test_bad_input_is_said():
    for match, call in {
        "half-life of 0": lambda: Trending(0.0),
        r"\(2,\) items, \(1,\) times": lambda: Trending().count(np.array([1, 2]), np.array([1.0])),
        "not finite": lambda: Trending().count(np.array([1]), np.array([np.nan])),
    }.items():
        with pytest.raises(SearchError, match=match):
            call()

"""Cross-domain: planted tastes found in a shop that was never visited; identities of the factorisation."""

import numpy as np
import pytest
import scipy.sparse as sp

from jaxrec.config import ConfigError
from jaxrec.data.histories import Holdout, from_lists
from jaxrec.data.interaction_sets import DataConfig
from jaxrec.eval.recommend_cross import CrossShopConfig, Task, drawn, main, of_shop, pair, table
from jaxrec.eval.recommend_twins import touched, twins
from jaxrec.recommenders.cross_domain import CrossDomain, CrossDomainConfig
from jaxrec.recommenders.implicit_als import ALSConfig, factorise
from jaxrec.recommenders.linear_mapping import LinearMapping, MappedSpaces
from jaxrec.recommenders.recommender import NotFitted

SMALL = CrossDomainConfig(als=ALSConfig(width=8, decay=1.0))
SHOP_I = np.repeat([0, 1], 30)  # items 0..29 and 30..59; item i belongs to taste i % 3


def world(people=90, seed=0):
    """People of three tastes; every fifth never used shop 1. Gives train and what the cold would take there."""
    rng = np.random.default_rng(seed)
    rows, cold = [], []
    for u in range(people):
        own = np.flatnonzero(np.arange(60) % 3 == u % 3)
        taken = rng.permutation(own)[:12]
        if u % 5 == 0:
            cold += [(u, i) for i in own if i >= 30]
            taken = taken[taken < 30]
        rows.append(taken.tolist())
    train = from_lists(rows, 60)
    user_B, item_B = np.array(cold).T
    return train, Holdout(train.take(user_B), item_B)


@pytest.fixture(scope="module")
def fitted():
    train, asked = world()
    return CrossDomain(SMALL, SHOP_I).fit(train, asked.take(np.arange(0, len(asked), 2)))


def test_tastes_are_found_in_a_shop_that_was_never_used(fitted):
    _, asked = world()
    chances_BW = fitted.chances(asked.histories, 1)
    assert chances_BW.shape == (len(asked), 30) and np.allclose(chances_BW.sum(1), 1)
    best_BJ = np.argsort(-chances_BW, axis=1)[:, :8] + 30
    assert (best_BJ % 3 == (asked.target_B % 3)[:, None]).mean() > 0.95
    mapping = LinearMapping(fitted, 0, 1).fit(asked)
    best_BJ = np.argsort(-mapping.chances(asked.histories), axis=1)[:, :8] + 30
    assert (best_BJ % 3 == (asked.target_B % 3)[:, None]).mean() > 0.8


def test_a_person_is_no_witness_of_themselves(fitted):
    train, _ = world()
    everybody = train.take(fitted.shops[1].members)
    known = fitted._evidence(everybody, 1)
    assert np.all(np.diag(known.like_BM) == 0) and np.all(np.diag(known.overlap_BM) == 0)
    assert (known.like_BM > 0.5).any()


def test_who_is_not_known_at_all_gets_what_is_popular(fitted):
    nobody = from_lists([[]], 60, np.array([-1]))
    chances_W = fitted.chances(nobody, 0)[0]
    assert chances_W.argmax() == fitted.count_I[:30].argmax()
    scores_I = fitted.score(nobody)[0]
    assert np.isfinite(scores_I).all() and np.exp(scores_I).sum() == pytest.approx(1, abs=1e-4)


def test_saved_and_loaded_it_answers_the_same(fitted, tmp_path):
    _, asked = world()
    fitted.save(tmp_path / "m")
    again = CrossDomain.load(tmp_path / "m")
    rows = asked.histories.take(np.arange(5))
    np.testing.assert_allclose(again.score(rows), fitted.score(rows), rtol=1e-4, atol=1e-4)
    found = again.recommend(rows, 4)
    assert not np.isin(found.items_BJ[0], rows[0]).any()
    assert (again.similar_items(np.array([31]), 5).items_BJ % 3 == 1).mean() > 0.7


def test_bad_use_is_refused():
    train, _ = world()
    with pytest.raises(NotFitted):
        CrossDomain(SMALL, SHOP_I).score(train)
    with pytest.raises(ValueError, match="59 items"):
        CrossDomain(SMALL, SHOP_I[:59]).fit(train)


def test_als_solves_each_row_exactly():
    rng = np.random.default_rng(0)
    taken = sp.csr_matrix((rng.random((20, 15)) < 0.3).astype(float))
    cfg = ALSConfig(width=5, alpha=4.0, decay=0.7, rounds=3)
    found = factorise(taken, cfg)
    y = found.item_IE
    for u, x_E in enumerate(found.people(taken)):
        weight = 1 + cfg.alpha * taken[[u]].toarray()[0]
        left = (y * weight[:, None]).T @ y + cfg.decay * np.eye(5)
        right = (y * (weight * taken[[u]].toarray()[0])[:, None]).sum(0)
        np.testing.assert_allclose(left @ x_E, right, atol=1e-8)


def test_the_linear_map_is_found():
    rng = np.random.default_rng(0)
    x, matrix = rng.normal(size=(200, 4)), rng.normal(size=(4, 3))
    found = MappedSpaces.fit(x, x @ matrix + 2.0, 1e-6)
    np.testing.assert_allclose(found(x), x @ matrix + 2.0, atol=1e-4)


def test_negatives_are_the_shops_and_never_the_persons_own():
    _, asked = world()
    asked = of_shop(asked, SHOP_I, 1)
    places_BJ = drawn(np.arange(30, 60), asked, 200, 0)
    assert places_BJ.min() >= 0 and places_BJ.max() == 29 and places_BJ.shape == (len(asked), 200)
    for row, user in enumerate(asked.histories.user_B):
        own = asked.target_B[asked.histories.user_B == user] - 30
        assert not np.isin(places_BJ[row], own).any()
    assert np.array_equal(places_BJ, drawn(np.arange(30, 60), asked, 200, 0))


def test_intervals_are_over_people_and_paired():
    rng = np.random.default_rng(0)
    person_B = np.repeat(np.arange(40), 5)
    floor_B = rng.integers(1, 50, 200)
    rows, paired = table({"popularity": [floor_B], "cross-domain": [floor_B]}, person_B, 200)
    assert all(row["diff"] == row["lo"] == row["hi"] == 0 for row in paired)
    assert rows[0]["MRR"] == pytest.approx((1 / floor_B).mean())
    assert rows[0]["MRR_lo"] < rows[0]["MRR"] < rows[0]["MRR_hi"]
    better_B = np.maximum(floor_B // 2, 1)
    _, paired = table({"popularity": [floor_B], "cross-domain": [better_B]}, person_B, 200)
    assert all(row["lo"] > 0 for row in paired if row["metric"] == "MRR")


def test_one_product_under_two_names_is_found_and_what_it_gives_away():
    """Items 0 and 30 are one product: the same four people have both, and a fifth is asked for its other name."""
    rows = [[0, 30, 1], [0, 30, 31], [0, 30], [0, 30, 2], [0, 2], [1, 31]]
    rows += [[3, 33], [3, 33], [4, 34, 3], [33, 34], []]  # alike, but of two people, or of half
    train = from_lists(rows, 60)
    asked = Holdout(train.take(np.array([4, 5, 4])), np.array([30, 30, 31]))
    assert twins(train, (asked,), SHOP_I).tolist() == [[0, 30]]
    assert touched(asked, np.array([[0, 30]])).tolist() == [True, False, False]
    none = twins(train, (), np.zeros(60, int))
    assert none.shape == (0, 2) and not touched(asked, none).any()  # one shop has no other


def test_the_sample_world_meets_its_bar(tmp_path):
    rows = main(
        CrossShopConfig(
            name="t",
            recommender=CrossDomainConfig(als=ALSConfig(width=12), overlap=(0.0, 5.0)),
            draws=50,
            out=str(tmp_path),
        )
    )
    by = {(row["dataset"], row["model"]): row["R@10"] for row in rows}
    mean = lambda model: np.mean([value for (_, name), value in by.items() if name == model])
    assert mean("popularity") < 0.25 and mean("cross-domain") > 0.45
    assert mean("cross-domain") < mean("oracle")
    with pytest.raises(ConfigError, match="no shop 'wine'"):
        main(CrossShopConfig(name="t", targets=("wine",), out=str(tmp_path)))


def test_only_a_pair_with_cold_people_is_asked(data_dir):
    task = pair(DataConfig("cdrib-game_video"))
    assert isinstance(task, Task) and task.shops == ("game", "video")
    game = of_shop(task.test, task.shop_I, 0)
    assert len(game) == 1304 and len(np.unique(game.histories.user_B)) <= 226
    seen = np.concatenate([game.histories[row] for row in range(50)])
    assert (task.shop_I[seen] == 1).all()  # cold in games: all that is known of them is video
    with pytest.raises(ConfigError, match="no pair of shops"):
        pair(DataConfig("amazon14-musical-instruments-reviews"))

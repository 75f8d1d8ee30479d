"""Three shops: a whole catalogue, people whose events follow what was planted, and a frozen draw."""

import hashlib
import json

import numpy as np
import pytest

from jaxrec.world.floors import shop_rows
from jaxrec.world.shops import DAY, DAYS, SHOPS, START, TAGS, _item, make_shops, read_catalog


@pytest.fixture(scope="module")
def shops():
    return make_shops()


def test_catalog_is_whole():
    catalog = read_catalog()
    assert len(catalog) >= 300 and len(set(catalog.title)) == len(catalog)
    assert set(catalog.shop) == set(SHOPS) and (catalog.price_I > 0).all()
    assert all(set(row["tags"].split()) <= TAGS.keys() for row in catalog.attributes)
    assert catalog.text(0).startswith("Margherita pizza. Baked")


def test_people_have_events_in_order_and_cold_ones_none_in_their_shop(shops):
    shop_I = np.array(shops.catalog.shop)
    assert len(shops.people) >= 400 and len(shops.cold) == 96
    for u, person in enumerate(shops.people):
        assert (np.diff(person.times_T) >= 0).all() and len(np.unique(person.items_T)) == len(
            person.items_T
        )
        assert person.times_T[0] >= START and person.times_T[-1] < START + DAYS * DAY
        assert (u in shops.cold) == bool(person.cold)
        assert set(shop_I[person.items_T]) == set(SHOPS) - set(person.cold)
        if person.cold:
            assert set(shop_I[shops.cold[u]]) == set(person.cold)


def test_tastes_are_shared_across_shops(shops):
    """What a person buys in one shop says what they buy in another: the tags' means agree within a person."""
    shop_I = np.array(shops.catalog.shop)
    means = {s: [] for s in ("food", "market")}
    for person in shops.people:
        if not person.cold:
            for s, rows in means.items():
                rows.append(shops.tags_IW[person.items_T[shop_I[person.items_T] == s]].mean(0))
    a_UW, b_UW = (np.array(rows) - np.mean(rows, 0, keepdims=True) for rows in means.values())
    own = (a_UW * b_UW).sum(1).mean()
    other = (a_UW * np.roll(b_UW, 1, axis=0)).sum(1).mean()
    assert own > 0.1 and own > 5 * abs(other)


def test_the_planted_score_is_the_oracle(shops):
    oracle, popularity, chance = shop_rows(shops)
    assert oracle["last R@10"] > 0.5 and oracle["cold R@10"] > 0.6
    assert chance["last R@10"] < popularity["last R@10"] < 0.25
    silent = make_shops(noise=0.0)
    assert shop_rows(silent)[0]["cold R@10"] == 1.0


def test_a_bad_line_is_named():
    with pytest.raises(ValueError, match=r"Tea \| tasty"):
        _item(0, "food", "tea", "Warm.", "Tea | tasty | 3")


def test_the_draw_is_frozen(shops):
    """A change here makes earlier results of record void: regenerate them."""
    events = [[p.id, p.items_T.tolist(), p.times_T.tolist(), p.cold] for p in shops.people]
    cold = {str(u): items.tolist() for u, items in shops.cold.items()}
    texts = [shops.catalog.text(i) for i in range(len(shops.catalog))]
    dump = json.dumps([texts, shops.catalog.price_I.tolist(), events, cold], ensure_ascii=False)
    assert hashlib.sha256(dump.encode()).hexdigest() == FROZEN


FROZEN = "2ea3ba6c01af202583c1f032492c98a758435acdd14537711eea83ffc52bc21e"

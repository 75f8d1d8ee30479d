"""Fading tastes, rhythms, the unified profile and what may be told of somebody's age."""

import json
from collections import Counter

import numpy as np
import pytest

from jaxrec.data.histories import Histories, from_lists
from jaxrec.people import preferences
from jaxrec.people.preferences import DAY, FadingMean, HalfLives, preference_vectors
from jaxrec.people.traits import anonymised, rhythm
from jaxrec.people.unified import Event, ItemKnowledge, UnifiedProfile
from jaxrec.world.shops import SHOPS, make_shops

RNG = np.random.default_rng(0)
VECTORS_IE = RNG.normal(size=(9, 4)).astype(np.float32)


def timed(rows: list[list[int]], days: list[list[float]]) -> Histories:
    plain = from_lists(rows, n_items=9)
    time_T = np.array([d * DAY for row in days for d in row], np.int64)
    return Histories(**(plain.__dict__ | {"time_T": time_T}))


def test_weights_halve_with_each_half_life():
    histories = timed([[0, 1], [2]], [[0, 7], [3]])
    taste = preference_vectors(histories, VECTORS_IE, HalfLives(short_days=7, long_days=1e9))
    np.testing.assert_allclose(taste.short_BE[0], (0.5 * VECTORS_IE[0] + VECTORS_IE[1]) / 1.5, 1e-5)
    np.testing.assert_allclose(taste.long_BE[0], VECTORS_IE[:2].mean(0), 1e-5)
    np.testing.assert_allclose(taste.short_BE[1], VECTORS_IE[2], 1e-5)


def test_without_times_age_is_counted_in_events():
    taste = preference_vectors(from_lists([[3, 4, 5]], n_items=9), VECTORS_IE)
    weight = 0.5 ** (np.array([2, 1, 0]) / 2)
    np.testing.assert_allclose(taste.short_BE[0], weight @ VECTORS_IE[3:6] / weight.sum(), 1e-5)


def test_people_without_events_and_blocks_of_any_size(monkeypatch):
    rows = [[0, 1, 2], [], [3], [4, 5, 6, 7], []]
    whole = preference_vectors(from_lists(rows, n_items=9), VECTORS_IE)
    assert not whole.short_BE[[1, 4]].any() and np.isfinite(whole.long_BE).all()
    monkeypatch.setattr(preferences, "BLOCK", 3)  # cuts through the rows
    parts = preference_vectors(from_lists(rows, n_items=9), VECTORS_IE)
    np.testing.assert_allclose(parts.long_BE, whole.long_BE, 1e-5)
    nobody = preference_vectors(from_lists([], n_items=9), VECTORS_IE)
    assert nobody.short_BE.shape == (0, 4)


def test_a_fading_mean_is_the_batch_mean_in_any_order():
    items, days = [3, 1, 8, 3], [0.0, 2.5, 30.0, 31.0]
    batch = preference_vectors(timed([items], [days]), VECTORS_IE, HalfLives(short_days=5))
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        mean = FadingMean(4, half_life=5.0)
        assert mean.value_E is None
        for i in order:
            mean.add(VECTORS_IE[items[i]], days[i])
        np.testing.assert_allclose(mean.value_E, batch.short_BE[0], 1e-5)
    mean.remove(VECTORS_IE[3], 0.0)
    left = preference_vectors(timed([items[1:]], [days[1:]]), VECTORS_IE, HalfLives(short_days=5))
    np.testing.assert_allclose(mean.value_E, left.short_BE[0], 1e-5)


def test_a_half_life_is_positive():
    with pytest.raises(ValueError, match="above 0"):
        FadingMean(4, 0.0)


def test_rhythm_of_known_moments():
    wednesday_noon = 1_735_689_600 + 12 * 3600  # 1 January 2025
    found = rhythm(np.array([wednesday_noon, wednesday_noon + DAY]))
    assert found == {
        "hour": {12: 2},
        "weekday": {"Wednesday": 1, "Thursday": 1},
        "season": {"winter": 2},
    }
    moved = rhythm(np.array([wednesday_noon]), utc_offset_h=12.5, southern=True)
    assert moved == {"hour": {0: 1}, "weekday": {"Thursday": 1}, "season": {"summer": 1}}
    march_31 = 1_743_379_200
    assert rhythm(np.array([march_31 + 1]))["season"] == {"spring": 1}


def test_rhythm_of_dates_has_no_hours_and_of_nothing_nothing():
    assert set(rhythm(np.array([1_529_193_600]), utc_offset_h=-5)) == {"weekday", "season"}
    assert rhythm(np.array([1_529_193_600]), utc_offset_h=-5)["weekday"] == {"Sunday": 1}
    assert rhythm(np.zeros(0, np.int64)) == {}
    before_1970 = rhythm(np.array([-1]))
    assert before_1970 == {"hour": {23: 1}, "weekday": {"Wednesday": 1}, "season": {"winter": 1}}


def test_the_planted_rhythm_is_found():
    world = make_shops(people=60)
    times = np.concatenate([person.times_T for person in world.people])
    shop = np.array([world.catalog.shop[i] for person in world.people for i in person.items_T])
    grocery = rhythm(times[shop == "grocery"])["weekday"]
    weekend = grocery["Saturday"] + grocery["Sunday"]
    assert 0.45 < weekend / sum(grocery.values()) < 0.65  # planted: 6 / 11
    assert set(rhythm(times[shop == "food"])["hour"]) == {12, 13, 18, 19, 20, 21}


@pytest.fixture(scope="module")
def shops():
    return make_shops(people=12)


def knowledge(shops) -> ItemKnowledge:
    codes = np.arange(2 * len(shops.catalog)).reshape(-1, 2)
    return ItemKnowledge(shops.tags_IW.astype(np.float32), shops.catalog.shop, codes)


def test_the_unified_profile_spans_the_shops(shops):
    items = knowledge(shops)
    person = next(p for p in shops.people if not p.cold)
    events = [
        Event(int(i), int(t), {"device": "phone"})
        for i, t in zip(person.items_T, person.times_T, strict=True)
    ]
    told = UnifiedProfile(person.id, items, events, {"age": "30-39"}).as_dict()
    assert set(told["history"]) == set(SHOPS) and told["n_events"] == len(events)
    flat = [e for visits in told["history"].values() for v in visits for e in v["events"]]
    assert sorted(e["item"] for e in flat) == sorted(person.items_T.tolist())
    assert flat[0]["semantic_id"] == [2 * flat[0]["item"], 2 * flat[0]["item"] + 1]
    assert flat[0]["context"] == {"device": "phone"} and told["demographics"] == {"age": "30-39"}
    assert sum(told["temporal_patterns"]["weekday"].values()) == len(events)
    json.dumps(told)


@pytest.mark.parametrize("seed", range(3))
def test_unified_updates_and_purges_equal_a_rebuild(shops, seed):
    rng, items = np.random.default_rng(seed), knowledge(shops)
    events = [Event(int(i), int(t)) for i, t in rng.integers(0, 300, (12, 2)) * [1, 40_000]]
    profile = UnifiedProfile("p", items, events[:3])
    for event in events[3:]:
        profile.add(event)
    same(profile, UnifiedProfile("p", items, sorted(events, key=lambda e: e.time)))
    before = sorted(e.time for e in events)[5]
    left = [e for e in events if e.time >= before]
    assert profile.purge(before) == len(events) - len(left)
    same(profile, UnifiedProfile("p", items, left))
    profile.purge(10**12)
    assert profile.as_dict() == {"person": "p", "n_events": 0} and profile.short_term_E is None


def same(a: UnifiedProfile, b: UnifiedProfile) -> None:
    np.testing.assert_allclose(a.short_term_E, b.short_term_E, atol=1e-6)
    np.testing.assert_allclose(a.long_term_E, b.long_term_E, atol=1e-6)
    dicts = [x.as_dict() for x in (a, b)]
    assert dicts[0]["temporal_patterns"] == dicts[1]["temporal_patterns"]
    assert dicts[0]["history"].keys() == dicts[1]["history"].keys()
    assert a.sessions() == b.sessions()


def test_an_item_that_is_not_known_is_refused(shops):
    with pytest.raises(ValueError, match="no item 324"):
        UnifiedProfile("p", knowledge(shops)).add(Event(324, 0))


@pytest.mark.parametrize("k", [2, 5, 20])
def test_whatever_is_told_is_told_of_k_people(k):
    rng = np.random.default_rng(1)
    people = 200
    fields = {
        "age": [str(a) for a in rng.integers(15, 80, people)],
        "gender": rng.choice(["F", "M", ""], people).tolist(),
        "occupation": rng.choice(["cook", "smith", "judge", "poet"], people).tolist(),
    }
    told = anonymised(fields, k)
    count = Counter(tuple(sorted(row.items())) for row in told if row)
    assert min(count.values()) >= k and sum(count.values()) > people / 2
    assert all(len(row["age"]) == 5 for row in told if "age" in row)  # "30-39"


def test_a_lone_person_tells_nothing():
    told = anonymised({"age": ["31", "34", "77"], "gender": ["F", "F", "F"]}, k=2)
    assert told == [{"age": "30-39", "gender": "F"}] * 2 + [{}]
    with pytest.raises(ValueError, match="at least 2"):
        anonymised({"age": ["31"]}, k=1)
    with pytest.raises(ValueError, match="different lengths"):
        anonymised({"age": ["31"], "gender": []})

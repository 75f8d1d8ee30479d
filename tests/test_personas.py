"""Personas: planted clusters are found and told by their words; k by elbow and silhouette; bad input."""

import logging

import numpy as np
import pytest

from jaxrec.people.persona_count import choose_k, plot_count
from jaxrec.people.personas import Personas, PersonasConfig, PersonasError, fit_personas

TOPICS = (
    "coffee latte espresso mug beans",
    "tent camping hiking boots trail",
    "novel author chapter story reader",
    "phone charger cable battery screen",
)
PEOPLE = 80


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, np.ndarray, list[tuple[int, str]]]:
    """Vectors about four centres, and texts: three words of one's topic, and words that everybody says."""
    rng = np.random.default_rng(0)
    topic_U = np.arange(PEOPLE) % len(TOPICS)
    centres = np.eye(len(TOPICS), 8) * 6
    vectors_UE = (centres[topic_U] + rng.normal(0, 0.6, (PEOPLE, 8))).astype(np.float32)
    said = []
    for user, topic in enumerate(topic_U):
        own = rng.permutation(TOPICS[topic].split())[:4]
        said.append((user, " ".join(own)))
        said.append((user, "I love this great product and the gift is wonderful"))
    said.append((0, "zanzibar " * 50))  # one chatty person is no persona
    return vectors_UE, topic_U, said


def test_planted_personas_are_found_and_named(planted):
    vectors_UE, topic_U, said = planted
    personas = fit_personas(vectors_UE, iter(said), PersonasConfig(k=4))
    found_U = personas.assign(vectors_UE)
    assert personas.size_K.tolist() == [20, 20, 20, 20]
    for topic, names in enumerate(TOPICS):
        (cluster,) = set(found_U[topic_U == topic])
        label = personas.labels[cluster]
        assert label.startswith("interested in ")
        assert set(label.removeprefix("interested in ").split(", ")) == set(names.split())


def test_the_same_seed_gives_the_same_personas(planted):
    vectors_UE, _, said = planted
    a, b = (fit_personas(vectors_UE, said, PersonasConfig(k=4)) for _ in range(2))
    np.testing.assert_array_equal(a.centres_KE, b.centres_KE)
    assert a.labels == b.labels


def test_a_new_person_joins_the_nearest(planted):
    vectors_UE, topic_U, said = planted
    personas = fit_personas(vectors_UE, said, PersonasConfig(k=4))
    newcomer = vectors_UE[topic_U == 2].mean(0, keepdims=True) + 0.1
    assert personas.assign(newcomer)[0] == personas.assign(vectors_UE[2:3])[0]
    with pytest.raises(PersonasError, match="vectors of 3 numbers"):
        personas.assign(np.zeros((1, 3), np.float32))


def test_saved_personas_are_loaded(planted, tmp_path):
    vectors_UE, _, said = planted
    personas = fit_personas(vectors_UE, said, PersonasConfig(k=4))
    personas.save(tmp_path / "personas")
    again = Personas.load(tmp_path / "personas")
    assert again.labels == personas.labels
    np.testing.assert_array_equal(again.assign(vectors_UE), personas.assign(vectors_UE))
    (tmp_path / "personas/personas.npz").write_bytes(b"cut")
    with pytest.raises(PersonasError, match="no personas can be read"):
        Personas.load(tmp_path / "personas")


def test_fewer_people_than_personas(planted, caplog):
    vectors_UE, _, said = planted
    with caplog.at_level(logging.WARNING):
        personas = fit_personas(vectors_UE[:3], [s for s in said if s[0] < 3])
    assert len(personas) == 3
    assert "3 personas, not 20: there are 3 different people" in caplog.text
    alone = fit_personas(vectors_UE[:1], [(0, "coffee")], PersonasConfig(min_people=1))
    assert alone.labels == ("interested in coffee",)


def test_people_who_wrote_nothing_have_unknown_interests(planted):
    vectors_UE, _, _ = planted
    assert fit_personas(vectors_UE, (), PersonasConfig(k=2)).labels == ("interests unknown",) * 2


@pytest.mark.parametrize(
    ("vectors", "k", "words"),
    [
        (np.zeros((0, 4), np.float32), 20, "nobody to make personas of"),
        (np.full((3, 4), np.nan, np.float32), 2, "not finite"),
        (np.zeros((3, 4), np.float32), 0, "k is at least 1"),
    ],
)
def test_bad_input(vectors, k, words):
    with pytest.raises(PersonasError, match=words):
        fit_personas(vectors, (), PersonasConfig(k=k))


def test_the_planted_count_is_chosen_and_drawn(planted, tmp_path):
    count = choose_k(planted[0], (2, 3, 4, 5, 6, 8, 99), PersonasConfig(restarts=3))
    assert count.k == 4 and count.ks == (2, 3, 4, 5, 6, 8)
    assert abs(count.elbow - 4) <= 1
    assert list(count.inertia) == sorted(count.inertia, reverse=True)
    plot_count(count, tmp_path / "count.png")
    assert (tmp_path / "count.png").read_bytes()[:4] == b"\x89PNG"


def test_too_few_people_for_a_choice():
    with pytest.raises(PersonasError, match="3 different people leave the ks"):
        choose_k(np.eye(3, dtype=np.float32))

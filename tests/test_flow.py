"""The flow on a planted world: each path, each odd query, each stage's law, with toy encoders and rankers."""

import re
import zlib
from pathlib import Path

import numpy as np
import pytest

from jaxrec.data.histories import Histories, from_lists
from jaxrec.people.personas import PersonasConfig, fit_personas
from jaxrec.people.preferences import preference_vectors
from jaxrec.recommenders.flow import (
    STAGES,
    FlowError,
    FlowParts,
    FlowSettings,
    FlowWeights,
    Pipeline,
    weigh,
)
from jaxrec.recommenders.flow.query import read_query
from jaxrec.recommenders.recommender import Recommender, top
from jaxrec.types import Shortlist

KINDS = ("coffee", "tent", "novel", "charger")
COLOURS = ("red", "blue", "green", "black", "white", "golden", "silver", "pink", "grey", "brown")
TITLES = tuple(f"{colour} {kind}" for kind in KINDS for colour in COLOURS)  # 40, ten of a kind
DIM = 64


def embed(texts: list[str]) -> np.ndarray:
    """Words hashed to fixed directions, summed: texts with a word in common are near each other."""
    rows = []
    for text in texts:
        row = np.zeros(DIM)
        for word in re.findall(r"\w+", text.lower()):
            row += np.random.RandomState(zlib.crc32(word.encode())).normal(size=DIM)
        rows.append(row / max(np.linalg.norm(row), 1e-9))
    return np.array(rows, np.float32)


VECTORS_ID = embed(list(TITLES))


def search(q_BD: np.ndarray, k: int) -> Shortlist:
    return top(q_BD @ VECTORS_ID.T, k)


class Liking(Recommender):
    """Scores items by their colour's share in the row: a ranker whose answer is known."""

    kind, config = "liking", None

    def fit(
        self, train: Histories, valid: object = None, out: str | Path | None = None
    ) -> Recommender:
        return self

    def score(self, histories: Histories) -> np.ndarray:
        colour_I = np.arange(len(TITLES)) % len(COLOURS)
        count = np.zeros((len(histories), len(COLOURS)), np.float32)
        np.add.at(count, (histories.row_T, colour_I[histories.item_T]), 1)
        return count[:, colour_I]

    def item_vectors(self) -> np.ndarray:
        return VECTORS_ID

    def save(self, folder: str | Path) -> None:
        raise AssertionError("a flow neither saves nor loads its parts")

    @classmethod
    def load(cls, folder: str | Path) -> Recommender:
        raise AssertionError("a flow neither saves nor loads its parts")


RED, GREEN, SILVER = (COLOURS.index(name) for name in ("red", "green", "silver"))
HISTORIES = from_lists(
    [[GREEN, 10 + GREEN, 20 + GREEN], [SILVER], [], [30 + RED, 31, 32, 33]], n_items=len(TITLES)
)
PEOPLE = {"gus": 0, "sil": 1, "nil": 2, "rae": 3}


def parts(**changed) -> FlowParts:
    taste = lambda histories: preference_vectors(histories, VECTORS_ID).long_BE
    said = [(int(r), TITLES[i]) for r, i in zip(HISTORIES.row_T, HISTORIES.item_T, strict=True)]
    personas = fit_personas(taste(HISTORIES), said, PersonasConfig(k=4, min_people=1))
    given = dict(
        titles=TITLES,
        encode=embed,
        search=search,
        vectors=lambda items: VECTORS_ID[items],
        people=PEOPLE,
        histories=HISTORIES,
        popular_I=np.arange(len(TITLES)),  # ints, the last item the most popular
        rankers={"sequence": Liking()},
        personas=personas,
        person_vectors=taste,
    )
    return FlowParts(**(given | changed))


@pytest.fixture(scope="module")
def flow() -> Pipeline:
    return Pipeline(parts(), FlowSettings(candidates=40, diverse=20, duplicate=1.0, method="mmr"))


def test_a_known_person_gets_what_they_ask_for_in_their_colour(flow):
    answer = flow.answer("gus", "charger")
    assert answer.path == "known person, query" and answer.notes == ()
    assert answer.titles[0] == "green charger"
    assert set(answer.titles[:5]) <= {t for t in TITLES if t.endswith("charger")}
    assert answer.persona.startswith("interested in ") and "green" in answer.persona
    assert len(answer.items) == 10 == len(set(answer.items.tolist()))


def test_two_people_with_one_query_get_two_lists(flow):
    gus, rae = flow.answer("gus", "tent"), flow.answer("rae", "tent")
    assert gus.titles != rae.titles and gus.persona != rae.persona


def test_the_parts_add_up_to_the_score(flow):
    answer = flow.answer("gus", "novel")
    np.testing.assert_allclose(sum(answer.parts.values()), answer.scores)
    assert set(answer.parts) == {"text", "sequence"}
    assert (np.diff(answer.scores) <= 0).all()


def test_latency_is_told_by_stage(flow):
    latency = flow.answer("gus", "novel").latency_ms
    assert tuple(latency) == STAGES and all(ms >= 0 for ms in latency.values())
    assert latency["encode"] > 0 and latency["diversify"] > 0


def test_what_a_person_has_is_not_recommended_unless_wanted(flow):
    for query in ("green", ""):
        assert not set(flow.answer("gus", query).items) & {GREEN, 10 + GREEN, 20 + GREEN}
    again = Pipeline(flow.parts, FlowSettings(40, 40, duplicate=1.0, mask_seen=False))
    assert "green coffee" in again.answer("gus", "green coffee").titles


@pytest.mark.parametrize("query", ["", "   \n\t "])
def test_an_empty_query_asks_the_profile_alone(flow, query):
    answer = flow.answer("gus", query)
    assert answer.path == "known person, no query"
    assert answer.titles[0] == "green charger" and "text" in answer.parts


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("подарок для мамы", "left out: words in CYRILLIC"),
        ("给妈妈的礼物", "left out: words in CJK"),
        ("هدية", "left out: words in ARABIC"),
        ("🎂🎁", "no word in the query"),
        ("?!... --", "no word in the query"),
    ],
)
def test_a_query_that_cannot_be_read_is_said_and_the_profile_answers(flow, query, told):
    answer = flow.answer("gus", query)
    assert answer.path == "known person, no query" and told in " ".join(answer.notes)
    assert answer.titles == flow.answer("gus", "").titles
    cold = flow.answer("nobody", query)
    assert len(cold.items) == 10 and cold.path == "new person, no query"


def test_the_readable_part_of_a_mixed_query_is_read(flow):
    answer = flow.answer("gus", "подарок: charger 🎁")
    assert answer.path == "known person, query" and answer.titles[0] == "green charger"
    assert "CYRILLIC" in answer.notes[0]
    whole = Pipeline(parts(), FlowSettings(40, 40, scripts=()))
    assert whole.answer("gus", "подарок").notes == ()


@pytest.mark.parametrize("word", ["charger ", "x", " "])
def test_ten_thousand_characters(flow, word):
    answer = flow.answer("gus", (word * 10_000)[:10_000])
    assert len(answer.items) == 10
    assert "the query has 10,000 characters, the first 2,000 are read" in answer.notes


def test_an_unknown_person_is_told_so_and_served_by_query_and_popularity(flow):
    answer = flow.answer("nobody", "coffee")
    assert answer.path == "new person, query" and answer.persona is None
    assert "'nobody' is not known: cold start by popularity" in answer.notes[0]
    assert all(title.endswith("coffee") for title in answer.titles)
    assert set(answer.parts) == {"text", "popular"}


def test_an_unknown_person_without_a_query_gets_what_is_popular(flow):
    flat = Pipeline(flow.parts, FlowSettings(candidates=40, diverse=40, duplicate=1.0))
    answer = flat.answer("nobody", "")
    assert answer.items.tolist() == list(range(39, 29, -1)) and set(answer.parts) == {"popular"}


def test_an_unknown_person_who_names_items_is_folded_in(flow):
    answer = flow.answer("nobody", "charger", given=[GREEN])
    assert answer.path == "new person, given items, query"
    assert answer.titles[0] == "green charger" and "folded in from 1 given item" in answer.notes[0]
    assert GREEN not in answer.items and answer.persona is not None
    with pytest.raises(FlowError, match="there is no item 40"):
        flow.answer("nobody", given=[40])


def test_a_person_with_one_event_and_one_with_none(flow):
    one = flow.answer("sil", "tent")
    assert one.path == "known person, query" and one.titles[0] == "silver tent"
    none = flow.answer("nil", "tent")
    assert none.path == "new person, query" and "'nil' has no event yet" in none.notes[0]


def test_near_duplicates_leave_one_another_out():
    doubled = np.concatenate([VECTORS_ID, VECTORS_ID])
    titles = TITLES + tuple(f"{t} again" for t in TITLES)
    twice = parts(
        titles=titles,
        search=lambda q, k: top(q @ doubled.T, k),
        vectors=lambda items: doubled[items],
        rankers={},
        popular_I=np.zeros(80),
    )
    answer = Pipeline(twice, FlowSettings(candidates=60, diverse=30)).answer("gus", "coffee")
    assert len({item % 40 for item in answer.items}) == len(answer.items) == 10


def test_fewer_items_than_asked_for_is_said():
    few = parts(search=lambda q, k: top(q @ VECTORS_ID.T, 3), rankers={})
    answer = Pipeline(few, FlowSettings()).answer("gus", "charger")
    assert len(answer.items) == 3 == len(answer.titles)
    assert "only 3 different items are left" in answer.notes


def test_weights_rule_and_constant_scores_say_nothing():
    scores = {"text": np.array([3.0, 2.0, 1.0]), "sequence": np.array([0.0, 0.0, 5.0])}
    assert weigh(scores, FlowWeights(sequence=0.0))[0].argmax() == 0
    assert weigh(scores, FlowWeights(sequence=9.0))[0].argmax() == 2
    total, told = weigh({"deepmf": np.full(3, 4.2)}, FlowWeights())
    assert not total.any() and not told["deepmf"].any()
    assert weigh({}, FlowWeights())[0].shape == (0,)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(FlowError, match="no weight is named 'oracle'"):
        Pipeline(parts(rankers={"oracle": Liking()}))
    with pytest.raises(FlowError, match="k, diverse and candidates"):
        Pipeline(parts(), FlowSettings(candidates=20, diverse=30))


def test_reading_a_query():
    assert read_query("a café for 2").text == "a café for 2"
    assert read_query("2024").text == "2024"
    assert read_query("abc def", longest=5).text == "abc"
    assert read_query("abc def", longest=3).text == "abc"
    assert read_query("", ()).notes == () and read_query("Кофе", ()).text == "Кофе"

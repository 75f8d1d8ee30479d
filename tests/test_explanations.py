"""Rows split by person, written in shards, never twice; pairs from ratings and personas; the composer's honesty."""

import gzip
import json

import numpy as np
import pytest

from jaxrec.config import ConfigError
from jaxrec.data import explanations
from jaxrec.data.explanations import Distinct, ExplanationError, Shards, part_of, read_part
from jaxrec.data.histories import Interactions
from jaxrec.data.interaction_sets import InteractionSet, Items
from jaxrec.data.readers.raw import Problems
from jaxrec.dialogue.explanation import Explainer, Reader, Subject
from jaxrec.dialogue.prompts import PromptError
from jaxrec.people.personas import PersonasConfig
from jaxrec.rewards import instruction_pairs
from jaxrec.rewards.instruction_pairs import PairsConfig, item_facts, rated_rows
from jaxrec.text_metrics import Catalogue

XREC = {"uid": 1, "iid": 7, "title": "Tea &amp; Co", "user_summary": "Likes tea.",
        "item_summary": "For tea lovers.", "explanation": "The user would buy it for the tea."}  # fmt: skip


def write(path, rows):
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    return path


# ------------------------------------------------------------------------------------------ data


def test_people_fall_into_parts_by_name_alone():
    parts = [part_of(f"user {n}") for n in range(4000)]
    share = {part: parts.count(part) / 4000 for part in explanations.PARTS}
    assert share["train"] == pytest.approx(0.8, abs=0.03)
    assert share["test"] == pytest.approx(0.1, abs=0.02)
    assert [part_of(f"user {n}") for n in range(9)] == parts[:9]
    assert part_of("anyone", valid=0.0, test=0.0) == "train"
    with pytest.raises(ExplanationError, match="no people"):
        part_of("anyone", valid=0.5, test=0.5)


def test_explained_rows_are_read_part_by_part(tmp_path):
    rows = [{**XREC, "uid": n} for n in range(60)]
    path = write(tmp_path / "x.jsonl.gz", rows)
    found = {part: list(explanations.read_explained(path, part)) for part in explanations.PARTS}
    people = [{row.user for row in part} for part in found.values()]
    assert sum(map(len, people)) == len(set.union(*people)) == 60
    assert found["train"][0].title == "Tea & Co"
    with pytest.raises(ExplanationError, match="'dev' is none of"):
        list(explanations.read_explained(path, "dev"))


@pytest.mark.parametrize(
    "content, says",
    [
        (b'{"uid": 1}\n', ":1: no field 'iid'"),
        (b"[1]\n", "JSON object"),
        (json.dumps(XREC).encode() + b"\n{oops", ":2: not a row of JSON"),
    ],
)
def test_damaged_rows_name_their_line(tmp_path, content, says):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(ExplanationError, match=says):
        list(explanations.read_explained(path))
    with pytest.raises(ExplanationError, match="there is no file"):
        list(explanations.read_explained(tmp_path / "absent.jsonl"))


def test_distinct_drops_the_second_and_counts():
    met = Distinct()
    assert [met.new("a", "b"), met.new("a", "b"), met.new("ab", "")] == [True, False, True]
    assert (len(met), met.dropped) == (2, 1)


def test_shards_roll_over_and_come_back_in_order(tmp_path):
    rows = [{"prompt": f"é{n}", "rating": None if n % 2 else 1.0} for n in range(7)]
    with Shards(tmp_path / "out", rows=3) as shards:
        for row in rows:
            shards.write("train", row)
    assert len(list((tmp_path / "out").glob("train-*.jsonl.gz"))) == 3
    assert list(read_part(tmp_path / "out", "train")) == rows
    assert explanations.write_arrow(tmp_path / "out", tmp_path / "rows.arrow") == 7
    with pytest.raises(ExplanationError, match="already holds train-00000"):
        Shards(tmp_path / "out")
    with pytest.raises(ExplanationError, match="no test-"):
        list(read_part(tmp_path / "out", "test"))


# ------------------------------------------------------------------------------------------ pairs


@pytest.fixture(scope="module")
def shop():
    """Thirty people, half of whom take jazz and half of whom take tea, and rate what they take."""
    kinds = [("Music", "Jazz")] * 6 + [("Kitchen", "Tea")] * 6
    names = ["Blue Train", "Giant Steps", "Kind of Blue", "Moanin", "Maiden Voyage", "Time Out"]
    names += ["Assam", "Darjeeling", "Ceylon", "Sencha", "Oolong Gold", "Earl Grey"]
    user, item, rating = [], [], []
    for person in range(30):
        for n in range(4):
            user.append(person)
            item.append((person % 2) * 6 + (person + n) % 6)
            rating.append(float(5 - n))
    events = Interactions(
        np.array(user),
        np.array(item),
        tuple(f"u{n}" for n in range(30)),
        tuple(f"i{n}" for n in range(12)),
        np.array(rating),
    )
    items = Items(title=tuple(names), category=tuple(kinds), brand=("", *["Acme"] * 11))
    return InteractionSet("shop", "made", events, items, {}, Problems())


CONFIG = PairsConfig(personas=PersonasConfig(k=2, min_people=1, restarts=1), width=4)


def test_pairs_speak_of_their_person_and_their_item(shop):
    rows = list(rated_rows(shop, CONFIG))
    assert len(rows) == 120
    first = rows[0]
    assert first["prompt"].startswith(
        "Instruction: Generate a personalized recommendation.\nUser: "
    )
    assert first["persona"] in first["prompt"] and "Blue Train (Jazz)" in first["prompt"]
    assert "jazz" in first["persona"].lower() and "tea" not in first["persona"].lower()
    assert (
        first["completion"].startswith(" Perfect match")
        and "this Jazz offers Music" in first["completion"]
    )
    assert "interest in" in first["completion"] and "jazz" in first["keywords"]
    by_rating = {row["rating"]: row["completion"][:8] for row in rows}
    assert by_rating == {5.0: " Perfect", 4.0: " Based o", 3.0: " This mi", 2.0: " This mi"}
    plain = next(iter(rated_rows(shop, CONFIG, "rating/1")))["prompt"]
    assert "Metadata" not in plain and "Metadata: Music" in first["prompt"]


def test_a_query_is_answered_with_what_was_liked(shop):
    rows = list(rated_rows(shop, CONFIG, "query/1"))
    assert {row["rating"] for row in rows} == {4.0, 5.0} and rows[0]["template"] == "query/1"
    assert "Metadata: Jazz, Music, rated 5.0\n" in rows[0]["prompt"]
    asked = rows[0]["prompt"].splitlines()[1].removeprefix("User: ")
    assert rows[0]["completion"].startswith(
        f" You might enjoy Blue Train because it matches your interest in {asked}: a choice of Jazz"
    )


def test_a_limit_draws_the_same_events_again(shop):
    few = PairsConfig(limit=10, personas=CONFIG.personas, width=4)
    rows = list(rated_rows(shop, few))
    assert len(rows) == 10 and rows == list(rated_rows(shop, few))


def test_facts_come_from_what_is_known():
    items = Items(
        title=("Nell", "A Mug", "10"),
        category=(("Drama",), (), ()),
        brand=("", "Acme", ""),
        year=("1994", "", ""),
    )
    assert item_facts(items, 0).features == ("a release of 1994",)
    assert (item_facts(items, 1).category, item_facts(items, 1).features) == (
        "item",
        ("the Acme brand",),
    )
    assert item_facts(items, 2).features == ("10",)
    # words of a title describe, but nobody can be held to them
    known = [item_facts(items, item).attributes for item in range(3)]
    assert known == [("Drama", "a release of 1994"), ("the Acme brand",), ()]


def test_the_command_writes_each_pair_once_and_nobody_twice(shop, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(instruction_pairs, "read", lambda config: shop)
    twice = PairsConfig(
        sets=("shop", "shop"),
        xrec=False,
        out=str(tmp_path / "pairs"),
        personas=CONFIG.personas,
        width=4,
    )
    told = instruction_pairs.main(twice)
    # two personas, twelve items, four ratings of them by place: what many people share is one pair
    assert told["pairs"] + told["duplicates"] == 240 and told["pairs"] == 24
    people = {}
    for part in explanations.PARTS:
        if told.get(part):
            people[part] = {row["user"] for row in read_part(tmp_path / "pairs", part)}
    assert sum(map(len, people.values())) == len(set.union(*people.values())) > 0
    assert "duplicates" in capsys.readouterr().out


def test_counting_writes_nothing_and_says_when_there_are_too_few(shop, tmp_path, monkeypatch):
    monkeypatch.setattr(instruction_pairs, "read", lambda config: shop)
    small = dict(xrec=False, out=str(tmp_path / "none"), personas=CONFIG.personas, width=4)
    told = instruction_pairs.main(
        PairsConfig(sets=("shop",), count=20, results=str(tmp_path / "results"), **small)
    )
    assert json.loads((tmp_path / "results" / "results.json").read_text())["rows"] == [told]
    assert told["pairs"] == 20 and not (tmp_path / "none").exists()
    with pytest.raises(ConfigError, match="the sets give"):
        instruction_pairs.main(PairsConfig(sets=("shop",), count=2000, **small))


def test_xrec_and_movielens_give_whole_rows(data_dir):
    rows = list(instruction_pairs.explained_rows("test"))
    assert 200 < len(rows) < 400
    for row in rows:
        assert row["prompt"].endswith("Response:") and row["completion"].startswith(" ")
        assert row["rating"] is None and row["title"] in row["prompt"]
        # the part by which pairs are written is the one by which the backbone's texts were chosen
        assert part_of(f"{row['source']}:{row['user']}") == "test"


# ------------------------------------------------------------------------------------------ the composer

SUBJECTS = [
    Subject("Blue Train", "Jazz", ("Music",), 4.6),
    Subject("Kind of Blue", "Jazz", ("Music",)),
    Subject("Assam", "Tea", ("Kitchen",), 3.0),
]
CATALOGUE = Catalogue([s.title for s in SUBJECTS], [[s.category, *s.features] for s in SUBJECTS])
READER = Reader("interested in jazz, soul", ("jazz", "soul"))


def test_a_models_text_stands_where_it_speaks_of_its_item():
    asked = []

    def complete(prompts):
        asked.extend(prompts)
        return [" Your jazz: Blue Train.", "As good as Blue Train!", "  \n"]

    good, other, empty = Explainer(complete, CATALOGUE).explain(SUBJECTS, READER)
    assert "Rating: 4.6/5" in asked[0] and "Rating" not in asked[1] and "Rating: 3/5" in asked[2]
    assert (good.by, good.text, good.why) == ("model", "Your jazz: Blue Train.", "")
    assert good.said.named and good.said.true == ("Jazz",)
    assert other.by == "template" and other.why == "the model named another item: blue train"
    assert other.written == "As good as Blue Train!" and "Kind of Blue" in other.text
    assert empty.by == "template" and empty.why == "the model wrote nothing"
    assert empty.said.named and not empty.said.false and "jazz and soul" in empty.text


def test_a_claim_that_only_another_item_may_make_is_not_passed_on():
    told = Explainer(lambda prompts: ["Blue Train, the best of Tea"], CATALOGUE)
    (reason,) = told.explain(SUBJECTS[:1], READER)
    assert reason.by == "template" and reason.why == "the model claimed what is not true of it: tea"
    assert (
        told.explain(SUBJECTS[:1], Reader(query="tea"))[0].by == "model"
    )  # they spoke of tea first


def test_somebody_unknown_is_asked_for_by_their_query():
    explainer = Explainer(lambda prompts: list(prompts), CATALOGUE)
    asked = explainer.prompt(SUBJECTS[0], Reader(query="music for the evening"))
    assert "User: music for the evening" in asked
    assert "Metadata: Jazz, Music, rated 4.6" in asked
    assert "many people like" in explainer.prompt(SUBJECTS[0], Reader())
    assert explainer.explain([], READER) == []


def test_a_model_that_loses_a_prompt_is_an_error():
    with pytest.raises(PromptError, match="3 prompts, but the model gave 1"):
        Explainer(lambda prompts: ["x"], CATALOGUE).explain(SUBJECTS, READER)
    with pytest.raises(PromptError, match="needs a title"):
        Explainer(lambda prompts: ["x"], CATALOGUE).explain([Subject("")], READER)

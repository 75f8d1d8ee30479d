"""The flow's script on the sample world with a toy encoder: it runs, resumes, and says what it should."""

import dataclasses
import json
import re
import zlib
from collections.abc import Sequence

import numpy as np
import pytest

from jaxrec.config import ConfigError
from jaxrec.configs.recommend.genrec_flow_sample import config as sample
from jaxrec.data.interaction_sets import Reviews
from jaxrec.eval import flow_parts, flow_table, recommend_flow
from jaxrec.eval.flow_parts import PartsConfig
from jaxrec.eval.recommend_flow import FlowConfig, Request
from jaxrec.models.items.sequential import SASRecConfig
from jaxrec.recommenders.flow import Candidates, FlowWeights
from jaxrec.recommenders.sequential import Sequential, SequentialConfig
from jaxrec.world.shops import make_shops

DIM = 48


class ToyEncoder:
    """Hashed words, summed."""

    dim = DIM

    @classmethod
    def load(cls, source: str | None = None) -> "ToyEncoder":
        return cls()

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.zeros((len(texts), DIM), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                row += np.random.RandomState(zlib.crc32(word.encode())).normal(size=DIM)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """One run of a small config, and what it printed."""
    folder = tmp_path_factory.mktemp("flow")
    model = SASRecConfig(d_model=16, layers=1, heads=2, d_ff=32, max_length=16)
    parts = PartsConfig(
        sample_world=True,
        sequential=SequentialConfig(model=model, width=32, epochs=1),
        out=str(folder / "out"),
    )
    requests = (*sample.requests, Request("person_003", "🎂"), Request("x", "pizza " * 2000))
    cfg = FlowConfig(
        name="flow_test", parts=parts, requests=requests, asked=25, timed=3,
        results=str(folder / "results"),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow_parts, "SentenceEncoder", ToyEncoder)
        patch.setattr(flow_parts, "make_shops", lambda: make_shops(people=70))
        rows = recommend_flow.main(cfg)
        yield cfg, rows, json.loads((folder / "results" / "flow_test.json").read_text())


def test_every_way_is_a_row_with_its_protocol(ran):
    _, rows, record = ran
    names = [row["model"] for row in rows]
    assert names[0] == "search alone" and "the flow (with its diversity)" in names
    assert not any("deepmf" in name for name in names)  # nobody rates in this world
    for row in rows:
        assert 0 <= row["N@10"] <= row["R@10"] <= row["found"] <= 1
        assert row["dataset"] == "sample-world" and "25 people" in row["protocol"]
        assert row["seeds"] == 1 and row["epoch"] is not None and row["peak_mb"] > 0
    by_name = {row["model"]: row for row in rows}
    assert by_name["search alone"]["R@10"] > by_name["sequence alone, no query"]["R@10"]
    assert len(record["rows"]) == len(rows) and len(record["personas"]) == 20
    stages = {row["stage"]: row for row in record["latency"]}
    assert set(stages) >= {"encode", "search", "rank", "total"}
    assert stages["total"]["p95_ms"] >= stages["total"]["p50_ms"] > 0


def test_what_was_made_is_taken_again_and_answers_are_printed(ran, capsys, monkeypatch):
    cfg, rows, _ = ran
    monkeypatch.setattr(Sequential, "fit", lambda *a, **k: pytest.fail("fitted twice"))
    again = recommend_flow.main(dataclasses.replace(cfg, asked=25))
    assert [row["R@10"] for row in again] == [row["R@10"] for row in rows]
    said = capsys.readouterr().out
    assert "nobody rates here: no DeepMF" in said
    assert "person_000 asks 'something warm for a rainy evening'" in said
    assert "'a newcomer' is not known: folded in from 2 given item(s)" in said
    assert "left out: words in CYRILLIC" in said and "no word in the query" in said
    assert "the query has 12,000 characters, the first 2,000 are read" in said
    assert said.count("  latency  user ") == len(cfg.requests)
    assert "interested in " in said and "mostly on a " in said


def test_a_given_item_that_does_not_exist_stops_before_any_training(ran):
    cfg = dataclasses.replace(ran[0], requests=(Request("x", "", given=("nothing",)),))
    with pytest.raises(ConfigError, match="sample-world has no item 'nothing'"):
        recommend_flow.main(cfg)


def test_personas_of_deepmf_need_ratings(ran):
    cfg = dataclasses.replace(ran[0].parts, persona_from="deepmf")
    with pytest.raises(ConfigError, match="nobody rates here"):
        flow_parts.person_vectors_of(cfg, {}, np.zeros((3, 4), np.float32))


def test_known_histories_hold_all_but_what_the_test_asks(ran):
    world = flow_parts.read_world(ran[0].parts)
    known = flow_parts.known_histories(world.split)
    assert len(known) == world.data.interactions.n_users
    for row in (0, 7, 41):
        place = int(np.flatnonzero(world.split.test.histories.user_B == row)[0])
        assert known[row].tolist() == world.split.test.histories[place].tolist()
    assert len(known.item_T) + len(world.split.test) == len(world.data.interactions)


def test_another_persons_words_are_of_the_item_and_by_nobody_who_asks(ran):
    world = flow_parts.read_world(ran[0].parts)
    events, test = world.data.interactions, world.split.test
    assert set(world.words_of_others(test, 0)) == {""}  # nobody writes in this world
    pairs = list(zip(events.user_T.tolist(), events.item_T.tolist(), strict=True))
    told = tuple(f"user {user} of {item}. And more." for user, item in pairs)
    reviews = Reviews(told, ("well",) * len(told))
    world = dataclasses.replace(world, data=dataclasses.replace(world.data, reviews=reviews))
    found = world.words_of_others(test, 0)
    assert found == world.words_of_others(test, 0) != world.words_of_others(test, 1)
    train = world.split.train
    trained = set(zip(train.user_B[train.row_T].tolist(), train.item_T.tolist(), strict=True))
    users, items = test.histories.user_B.tolist(), test.target_B.tolist()
    for user, item, words in zip(users, items, found, strict=True):
        others = {u for u, i in trained if i == item and u != user}
        if not others:
            assert words == ""
            continue
        writer, of = map(int, re.fullmatch(r"well user (\d+) of (\d+)\.", words).groups())
        assert of == item and writer in others
    assert sum(map(bool, found)) > len(found) / 2


def test_lists_are_ordered_by_the_weights():
    found = Candidates(
        np.array([7, 8, 9]),
        {"text": np.array([3.0, 2.0, 1.0]), "sequence": np.array([0.0, 0.0, 1.0])},
    )
    assert flow_table.lists([found], None)[0, :4].tolist() == [7, 8, 9, -1]
    assert flow_table.lists([found], FlowWeights(1.0, 0.0, 5.0))[0, 0] == 9

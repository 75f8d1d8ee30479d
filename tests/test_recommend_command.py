"""Any shop: two CSV files in, lists with true reasons out; kept, fitted again on a change, every mistake one line."""

import csv
import json

import numpy as np
import pytest

from jaxrec import recommend
from jaxrec.config import ConfigError
from jaxrec.data.histories import leave_one_out
from jaxrec.data.interaction_sets import DataConfig, read
from jaxrec.models.items.sequential import SASRecConfig
from jaxrec.people.words import item_terms
from jaxrec.recommend import RecommendConfig
from jaxrec.recommenders.flow import Flow, FlowConfig, FlowError, open_shop
from jaxrec.recommenders.flow import keep as keeping
from jaxrec.recommenders.recommender import NothingToLearn
from jaxrec.recommenders.sequential import SequentialConfig

KINDS = {
    "Кофе": ("Кофейная кружка", "Зерно арабика", "Мельница ручная"),
    "Сад": ("Лейка зелёная", "Семена укропа", "Секатор"),
    "Собаки": ("Поводок", "Корм для щенка", "Мячик"),
}
WORDS = FlowConfig(encoder="none")


@pytest.fixture
def shop(tmp_path):
    """(events, titles): 30 people who each like one kind and took two or three things of it, under names of its own."""
    rng = np.random.default_rng(0)
    items = [(f"A{n}", name, kind) for kind, names in KINDS.items() for name in names
             for n in [10 * list(KINDS).index(kind) + names.index(name)]]  # fmt: skip
    rows = []
    for person in range(30):
        own = [item for item in items if item[2] == list(KINDS)[person % 3]]
        picked = rng.permutation(3)[: 2 + person % 2]
        rows += [
            (f"C{person:03d}", own[n][0], 5 - n % 2, f"2024-03-{person % 28 + 1:02d}")
            for n in picked
        ]
    events, titles = tmp_path / "orders.csv", tmp_path / "titles.csv"
    write(events, ["customer", "product", "stars", "when"], rows)
    write(titles, ["product", "name", "category"], [*items, ("A99", "Новый чайник", "Кофе")])
    return events, titles


def write(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def ask(shop, tmp_path, **flags):
    events, titles = shop
    base = dict(events=str(events), items=str(titles), keep=str(tmp_path / "kept"), encoder="none")
    return recommend.main(RecommendConfig(**(base | flags)))


def test_a_known_person_gets_their_kind_with_reasons_and_the_second_call_fits_nothing(
    shop, tmp_path, capsys, monkeypatch
):
    first = ask(shop, tmp_path, user=("C000", "C004"), why=True, k=1)
    said = capsys.readouterr()
    assert [one[0].title in KINDS[kind] for one, kind in zip(first, KINDS, strict=False)] == [
        True
    ] * 2
    row = first[0][0]
    assert "took it" in row.why or "taken along with" in row.why
    assert all(event.together >= 2 and event.item.startswith("A") for event in row.evidence)
    assert (
        "fitted again" not in said.err
        and "kept in" in said.err
        and "titles are sought by their words" in said.err
    )
    assert "for C000 (2 events)" in said.out and "       - " in said.out
    monkeypatch.setattr(keeping, "_fitted", lambda *_: pytest.fail("fitted twice"))
    again = ask(shop, tmp_path, user=("C000", "C004"), why=True, k=1)
    assert [list(one) for one in again] == [list(one) for one in first]
    assert "C000" in capsys.readouterr().out


def test_changed_files_are_fitted_again_and_it_is_said(shop, tmp_path, capsys):
    ask(shop, tmp_path)
    with shop[0].open("a") as file:
        file.write("C900,A0,5,2024-05-01\n")
    (found,) = ask(shop, tmp_path, user=("C900",), k=3)
    assert "fitted again: orders.csv changed since the last fit" in capsys.readouterr().err
    assert "A0" not in [one.item for one in found]  # taken already
    (again,) = ask(shop, tmp_path, user=("C900",), k=20, again=True)
    assert "A0" in [one.item for one in again]


def test_strangers_queries_and_typos(shop, tmp_path):
    (known,) = ask(shop, tmp_path, user=("C00O",), query="кружку", k=3)
    assert known[0].title == "Кофейная кружка"
    assert known.notes[0].startswith(
        "'C00O' is not known: recommended by the query and popularity; did you mean 'C000'"
    )
    (popular,) = ask(shop, tmp_path)
    assert not popular.notes and popular[0].item != "A99"
    (nothing,) = ask(shop, tmp_path, query="quantum chromodynamics", user=("C000",))
    assert nothing.notes[0] == "no item has a word of the query: it is left aside"
    assert nothing[0].item
    (cold,) = ask(shop, tmp_path, query="чайник", k=1)
    assert cold[0].item == "A99"  # nobody has taken it, and it is found
    (liked,) = ask(shop, tmp_path, user=("new",), liked=("A20", "A21"), k=1)
    assert liked[0].item == "A22" and "by 2 items that they like" in liked.notes[0]


def test_json_lines_and_a_file_of_users(shop, tmp_path, capsys):
    (tmp_path / "who.txt").write_text("C003\n\nC004\nC003\n")
    ask(shop, tmp_path, users=str(tmp_path / "who.txt"), json=True, k=2)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["user"] for row in rows] == ["C003", "C004"]
    assert {"item", "title", "score", "reasons", "evidence"} == set(rows[0]["items"][0])


def test_what_cannot_be_done_is_one_line(shop, tmp_path):
    with pytest.raises(ConfigError, match="which events"):
        recommend.main(RecommendConfig())
    with pytest.raises(FlowError, match="there is no file"):
        ask(shop, tmp_path, events=str(tmp_path / "nothing.csv"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with pytest.raises(FlowError, match="holds something else"):
        ask(shop, tmp_path, keep=str(tmp_path / "mine"))
    with pytest.raises(FlowError, match="at least one item"):
        ask(shop, tmp_path, k=0)
    with pytest.raises(FlowError, match="no item 'A77'"):
        ask(shop, tmp_path, liked=("A77",))
    with pytest.raises(ConfigError, match="--users"):
        ask(shop, tmp_path, users=str(tmp_path / "nobody.txt"))
    with pytest.raises(FlowError, match="no fitted shop"):
        Flow.load(tmp_path)


def test_a_damaged_flow_is_fitted_again(shop, tmp_path, capsys):
    ask(shop, tmp_path)
    (tmp_path / "kept" / "flow" / "events.npz").write_bytes(b"PK broken")
    assert ask(shop, tmp_path)[0]
    assert "fitted again" in capsys.readouterr().err


def test_few_events_and_no_titles_fall_back_and_say_so(tmp_path):
    write(tmp_path / "few.csv", ["user", "item"], [("a", "x"), ("b", "x"), ("c", "y")])
    flow = open_shop(tmp_path / "few.csv", keep=tmp_path / "kept", config=WORDS, progress=False)
    assert "nobody took two different items: recommended by popularity" in flow.notes
    assert any("no titles" in note for note in flow.notes)
    assert [one.item for one in flow.recommend("c", "tea")] == ["x"]
    note = "there are no titles to search in: the query is left aside"
    assert note in flow.recommend("c", "tea").notes
    assert [one.item for one in flow.recommend()] == ["x", "y"]
    assert flow.recommend()[0].reasons == ("taken 2 times",)
    empty = read(DataConfig(path=tmp_path / "few.csv"))
    with pytest.raises(NothingToLearn):
        none = np.zeros(0, np.int64)
        Flow.fit(
            keeping.dataclasses.replace(empty, interactions=empty.interactions.take(none)), WORDS
        )


@pytest.mark.slow
def test_a_sequence_model_is_kept_as_vectors_and_read_anew_for_strangers(shop, tmp_path):
    data = read(DataConfig(path=shop[0], items=shop[1], whole_catalogue=True))
    tiny = SASRecConfig(d_model=8, layers=1, heads=1, d_ff=8, max_length=8)
    cfg = FlowConfig(
        encoder="none",
        sequential=SequentialConfig(model=tiny, width=8, epochs=1),
        sequence_people=5,
        tuned_people=5,
    )
    flow = Flow.fit(data, cfg, progress=False)
    assert flow.facts["held_out_people"] == len(leave_one_out(flow.shop.histories).valid)
    assert 0 <= flow.facts["popular_hit_10"] <= 1 and set(flow.parts.rankers) == {
        "neighbours",
        "sequence",
    }
    flow.save(tmp_path / "kept")
    loaded = Flow.load(tmp_path / "kept")
    for user, liked in ("C001", ()), ("stranger", ("A0",)):
        ours, theirs = (f.recommend(user, k=4, liked=liked) for f in (flow, loaded))
        assert [one.item for one in ours] == [one.item for one in theirs]
        np.testing.assert_allclose([o.score for o in ours], [t.score for t in theirs], atol=1e-4)
    assert "1." in str(ours) or "  1  " in str(ours)


def test_a_models_sentence_stands_where_it_is_true(shop, tmp_path, monkeypatch):
    say = {"Лейка зелёная": "A watering can.", "Секатор": "As good as Семена укропа.", "": ""}
    complete = lambda prompts: [next(t for name, t in say.items() if name in p) for p in prompts]
    monkeypatch.setattr(recommend, "writer_of", lambda cfg: complete)
    (found,) = ask(shop, tmp_path, query="лейка секатор", writer="a model", k=2)
    first = {one.title: one.reasons[0] for one in found}
    assert first["Лейка зелёная"] == "A watering can."
    assert "by template: the model named another item" in first["Секатор"]


def test_terms_are_kinds_or_telling_words(shop):
    items = read(DataConfig(path=shop[0], items=shop[1])).items
    terms = item_terms(items)  # three kinds are too few to tell tastes apart: words of titles
    assert ("кофейная", "кружка") in terms
    many = keeping.dataclasses.replace(items, category=tuple((f"kind {n}",) for n in range(9)))
    assert item_terms(many)[0] == ("kind 0",)

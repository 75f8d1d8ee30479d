"""What the stages make of tenants of one's own, before any model is loaded: who teaches, and who is measured."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from jaxrec.config import RunError
from jaxrec.data.chat import OwnChat
from jaxrec.data.tenants import Page, read_tenants
from jaxrec.data.text import train_tokenizer
from jaxrec.dialogue.pages import PagesConfig
from jaxrec.eval import same_question, voices
from jaxrec.models.personal.profile_folder import sources_of
from jaxrec.train import retrofit, universal
from jaxrec.training.loop import LoopConfig
from jaxrec.world.businesses import read_business
from jaxrec.world.records import TOPICS
from jaxrec.world.tenants import generate

TALKS = [{"question": f"is it {i}?", "answer": f"aye, {i}.", "topic": "price"} for i in range(10)]


@pytest.fixture
def shops(tmp_path):
    """A folder of three tenants: one with ten dialogues, one with a guide alone, one with a single dialogue."""
    rows = (
        {"key": "ten", "guide": "Say aye.", "dialogues": TALKS},
        {"key": "guide", "guide": "Be short."},
        {"key": "one", "dialogues": TALKS[:1]},
    )
    path = tmp_path / "shops.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_who_teaches_and_who_is_measured(shops, capsys):
    cfg = universal.UniversalConfig(lfe="x", tenants=(shops,))
    learned, held = universal.read(cfg)
    assert [t.key for t in learned] == ["ten"] and held == []
    assert [len(learned[0].onboarding), len(learned[0].heldout)] == [9, 1]
    said = capsys.readouterr().out
    assert "not trained on: guide, one (2 of 3 tenants)" in said and "each 10th dialogue" in said
    watch = lambda monitor: LoopConfig(monitor=monitor)
    with pytest.raises(RunError, match="nothing to measure held_nll on: give heldout"):
        universal.read(dataclasses.replace(cfg, hold_out_every=0))
    with pytest.raises(RunError, match="nothing to measure unseen_nll on: give --held"):
        universal.read(dataclasses.replace(cfg, loop=watch("unseen_nll")))
    with pytest.raises(RunError, match="'guide' is in tenants and in held"):
        universal.read(dataclasses.replace(cfg, held=(shops,)))
    quiet = dataclasses.replace(cfg, hold_out_every=0, loop=watch("train/nll"))
    assert len(universal.read(quiet)[0][0].onboarding) == 10


def test_some_tenants_are_learned_from_more_often_with_pages_drawn_anew(shops):
    few, often = generate(n=2), read_tenants(shops)[0][0]
    pages = (Page("a", "A", "It is one."), Page("b", "B", "It is two."))
    talks = tuple(dataclasses.replace(d, pages=("a",)) for d in often.onboarding)
    often = dataclasses.replace(often, pages=pages, onboarding=talks)
    cfg = universal.UniversalConfig(
        dialogues=2, often=("ten",), times=3, pages=PagesConfig("right", share=0.5), question=60
    )
    chat = OwnChat(train_tokenizer([d.answer for t in few for d in t.onboarding[:4]], 300))
    rows = universal.learned_rows(cfg, chat, [*few, often])
    assert np.bincount(rows.tenant_N).tolist() == [2, 2, 30]
    ten = rows.question["ids_BL"][rows.tenant_N == 2].reshape(3, 10, -1)
    assert (ten[0] != ten[1]).any()  # another draw of which get a page
    assert rows.dialogue_N[rows.tenant_N == 2].tolist() == [*range(10)] * 3
    once = universal.learned_rows(dataclasses.replace(cfg, often=()), chat, [*few, often])
    assert np.bincount(once.tenant_N).tolist() == [2, 2, 2]
    with pytest.raises(RunError, match="often=tne: there is no such tenant"):
        universal.read(dataclasses.replace(cfg, lfe="x", tenants=(shops,), often=("tne",)))


def test_a_retrofit_takes_topics_where_they_are_named(shops, capsys):
    texts, alike, topics = retrofit.read(retrofit.RetrofitConfig(tenants=(shops,)))
    assert len(texts) == len(alike) == 11 and topics == ["price"]
    assert (alike[0].one, alike[0].other, alike[0].topic) == ("is it 0?", "aye, 0.", "price")
    mixed = retrofit.read(retrofit.RetrofitConfig(tenants=(shops, "world:train:3")))
    assert (
        tuple(mixed[2]) == TOPICS and len(mixed[1]) > 11
    )  # the world's topics, and its paraphrases
    bare, _, none = retrofit.read(retrofit.RetrofitConfig(data=("world:instructions",)))
    assert none == [] and bare and "without the routing term" in capsys.readouterr().out
    with pytest.raises(RunError, match="none of 1 tenants has a dialogue"):
        retrofit.read(retrofit.RetrofitConfig(tenants=(_guide_alone(shops),)))


def _guide_alone(shops):
    path = Path(shops).with_name("guide.jsonl")
    path.write_text(Path(shops).read_text().splitlines()[1])
    return str(path)


def test_of_ones_own_tenants_no_style_is_checked(shops):
    own, *_ = read_tenants(shops)[0]
    made, written = generate(n=1)[0], read_business("kestrel_travel")
    tenants = [made, written, own]
    asked = [voices.Asked(u, t, t.onboarding[0]) for u, t in enumerate(tenants)]
    said = [a.dialogue.answer for a in asked]
    rows = voices.judged("own_p_gradient", asked, said, np.ones(3))
    assert [(row["tenants"], row["n"], row["f1"]) for row in rows] == [
        ("generated", 1, 1.0), ("hand-written", 1, 1.0), ("own", 1, 1.0),
    ]  # fmt: skip
    assert rows[0]["style"] == 1.0 and rows[2]["style"] is None
    answers = {name: said for name in ("own_p_gradient", "shuffled_p")}
    assert {r["tenant"] for r in voices.checks_by_tenant(asked, answers)} == {made.key, written.key}
    assert next(iter(voices.samples(asked, answers)))["tenant"] == written.name
    assert same_question.choose(tenants, 4) == [own, written, made]
    assert same_question.spoken(own, "aye")["checks"] is None
    assert same_question.spoken(written, "aye")["checks"] == 9


def test_where_the_tenants_of_a_profile_are_is_known_or_asked_for():
    assert sources_of({"sources": ["a"]}, ("b",), "x") == ("b",)
    assert sources_of({"sources": ["a"]}, (), "x") == ("a",)
    with pytest.raises(RunError, match="x does not say where its tenants came from"):
        sources_of({}, (), "x")

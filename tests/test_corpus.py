"""Texts to pretrain on: every kind of source, and a held-out part that training never sees."""

import gzip
import json

import pytest

from jaxrec.data import corpus
from jaxrec.data.explanations import read_explained
from jaxrec.data.text import train_tokenizer
from jaxrec.world import tenants
from jaxrec.world.businesses import read_businesses


def test_a_folder_is_its_notes_in_order(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.md").write_text("Second.\n")
    (tmp_path / "a.txt").write_text("  First.")
    (tmp_path / "deep" / "c.md").write_text("Third: naïve.")
    (tmp_path / "blank.md").write_text(" \n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    assert corpus.read(str(tmp_path)) == ["First.", "Second.", "Third: naïve."]
    assert corpus.read(str(tmp_path / "b.md")) == ["Second."]


@pytest.mark.parametrize("packed", [False, True])
def test_lines_are_texts_or_turns(tmp_path, packed):
    turns = [{"role": "customer", "text": "Open?"}, {"role": "assistant", "text": "Yes."}]
    rows = [{"text": "Plain."}, {"turns": turns}]
    rows.append(
        {
            "turns": [
                {"speaker": "USER", "utterance": "Hi."},
                {"speaker": "SYSTEM", "utterance": "Ho."},
            ]
        }
    )
    content = "\n".join(map(json.dumps, rows)).encode()
    path = tmp_path / ("rows.jsonl.gz" if packed else "rows.jsonl")
    path.write_bytes(gzip.compress(content) if packed else content)
    assert corpus.read(str(path)) == [
        "Plain.",
        [("customer", "Open?"), ("assistant", "Yes.")],
        [("user", "Hi."), ("assistant", "Ho.")],
    ]


def test_a_path_that_is_named_as_a_source_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "a.txt").write_text("Mine.")
    assert corpus.read("world") == ["Mine."]


def test_the_world_keeps_held_out_businesses_and_dialogues_to_itself(monkeypatch):
    few = tenants.generate(n=5)
    monkeypatch.setattr(tenants, "generate", lambda: few)
    said = {corpus.plain(d) for d in corpus.read("world")}
    businesses = [*few, *read_businesses()]
    assert {t.held_out for t in businesses} == {True, False}
    for tenant in businesses:
        dialogues = ["\n".join(t.text for t in d.turns) for d in tenant.onboarding]
        assert (tenant.guide in said) == all(d in said for d in dialogues) == (not tenant.held_out)
        assert not any("\n".join(t.text for t in d.turns) in said for d in tenant.heldout)


def test_what_is_held_out_is_not_trained_on():
    documents = [f"text {i % 7}" for i in range(20)] + [f"own {i}" for i in range(20)]
    train, held = corpus.hold_out(documents, 10)
    assert held == [documents[i] for i in (9, 19, 29, 39)]
    assert not set(train) & set(held)
    assert set(train) | set(held) == set(documents)
    for every in (1, 41):
        with pytest.raises(corpus.CorpusError, match="40 documents none would be"):
            corpus.hold_out(documents, every)


def test_every_token_but_the_first_is_learned():
    tok = train_tokenizer(["The old mill is open and the shop is shut."] * 3, 280)
    rows = corpus.encode(tok, ["The mill.", [("user", "Open?"), ("assistant", "The shop.")]])
    for row in rows:
        assert row.ids[0] == tok.special["<bos>"]
        assert row.loss == [0.0] + [1.0] * (len(row.ids) - 1)
    assert tok.decode(rows[1].ids) == "Open?The shop."


def test_real_dialogues_are_read(data_dir):
    first = corpus.read("sgd:dev")[0]
    assert [role for role, _ in first[:2]] == ["user", "assistant"]


def test_a_shop_is_what_people_wrote_and_what_is_known_of_the_items(data_dir):
    documents = corpus.read("shop:amazon18-gift-cards")
    assert documents[0].startswith("Five Stars\nAnother great gift")
    assert any(d.startswith("Jose Peppers Marketplace Gift Card | ") for d in documents[-9:])
    assert not any("&amp;" in d for d in documents)


def test_xrec_gives_the_training_peoples_profiles_and_no_explanation(data_dir):
    documents = corpus.read("xrec")
    held = [row for part in ("valid", "test") for row in read_explained(part=part)]
    assert 3000 < len(documents) < 5000
    assert not {row.user_summary for row in held} & set(documents)
    assert not any("The user would buy" in d for d in documents)

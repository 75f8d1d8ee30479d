"""The hand-written businesses read strictly: what is there passes, and each kind of mistake is named."""

import hashlib
import json
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from jaxrec.world.businesses import KEYS, read_business, read_businesses
from jaxrec.world.style import check

TEXTS = Path(str(resources.files("jaxrec.world") / "texts"))


def test_six_businesses_two_held_out():
    businesses = read_businesses()
    assert [b.key for b in businesses if b.held_out] == ["kestrel_travel", "moss_garden"]
    assert len({b.name for b in businesses}) == len({b.style for b in businesses}) == len(KEYS)
    for b in businesses:
        assert len(b.pages) >= 15
        assert (len(b.onboarding), len(b.preferences), len(b.heldout)) == (60, 40, 40)


def test_answers_wear_the_outward_marks_of_their_style():
    """Greeting, emoji, disclaimer, sign-off, length, and terms are met by every answer; tone mostly (it is prose)."""
    for b in read_businesses():
        answers = [d.answer for d in (*b.onboarding, *b.heldout)]
        answers += [pair.chosen for pair in b.preferences]
        met = [check(answer, b.style) for answer in answers]
        for name in met[0]:
            share = np.mean([row[name] for row in met])
            assert share >= {"formality": 0.7, "register": 0.4}.get(name, 1.0), (
                b.key,
                name,
                share,
            )


def test_the_texts_are_frozen():
    """Models are tuned on these words. A change here makes earlier results of record void: regenerate them."""
    digest = hashlib.sha256()
    for key in KEYS:
        for path in sorted((TEXTS / key).iterdir()):
            digest.update(f"{key}/{path.name}\n".encode() + path.read_bytes())
    assert digest.hexdigest() == FROZEN


FROZEN = "70bc33478466611e28f9c01e6a8096791552d3364dd1d3cb1afad0a754380986"


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(TEXTS / KEYS[0], tmp_path / KEYS[0])
    return tmp_path


def _edit(root: Path, name: str, change) -> None:
    """Rewrite a JSON-lines file of the copy through `change(rows)`."""
    path = root / KEYS[0] / name
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    change(rows)
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("onboarding.jsonl", lambda r: r.pop(), "59 rows, expected 60"),
        ("onboarding.jsonl", lambda r: r[1].update(id=r[0]["id"]), "ids that stand twice"),
        (
            "onboarding.jsonl",
            lambda r: r[0].update(pages=["nowhere"]),
            r"no such pages \['nowhere'\]",
        ),
        ("onboarding.jsonl", lambda r: r[0].update(topic="gossip"), "topic 'gossip'"),
        ("onboarding.jsonl", lambda r: r[0]["turns"].pop(), "expected customer and assistant"),
        ("onboarding.jsonl", lambda r: r[0].update(mood="good"), "fields"),
        ("heldout.jsonl", lambda r: r[0].update(id=""), r"empty \['id'\]"),
        ("preferences.jsonl", lambda r: r[0].update(rejected=r[0]["chosen"]), "are the same"),
        ("pages.jsonl", lambda r: r.clear(), "0 pages, at least 15"),
    ],
)
def test_a_mistake_is_named(copy, name, change, message):
    _edit(copy, name, change)
    with pytest.raises(ValueError, match=message):
        read_business(KEYS[0], copy)


def test_a_held_out_question_that_was_trained_on_is_refused(copy):
    first = read_business(KEYS[0], copy).onboarding[0]
    _edit(copy, "heldout.jsonl", lambda rows: rows[0]["turns"][-2].update(text=first.question))
    with pytest.raises(ValueError, match="held-out question also in training"):
        read_business(KEYS[0], copy)


def test_a_style_or_guide_that_does_not_fit_is_refused(copy):
    path = copy / KEYS[0] / "style.json"
    good = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**good, "guide": "Be kind."}), "utf-8")
    with pytest.raises(ValueError, match="the guide has 2 words"):
        read_business(KEYS[0], copy)
    path.write_text(json.dumps({**good, "style": {**good["style"], "length": "huge"}}), "utf-8")
    with pytest.raises(ValueError, match="length='huge'"):
        read_business(KEYS[0], copy)
    with pytest.raises(ValueError, match="no business 'nobody'"):
        read_business("nobody")

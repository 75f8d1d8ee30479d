"""Generated tenants: crossed, balanced, right in style and fact, held out as stated, and frozen."""

import hashlib
import json
from collections import Counter
from dataclasses import asdict
from itertools import combinations

import pytest

from jaxrec.world.grammar import fact_met, phrase, topics, trades
from jaxrec.world.records import TOPICS
from jaxrec.world.style import VALUES, check
from jaxrec.world.tenants import generate, is_held_out, paraphrases


@pytest.fixture(scope="module")
def tenants():
    return generate(seed=0)


@pytest.fixture(scope="module")
def trained(tenants):
    return [t for t in tenants if not t.held_out]


def test_counts(tenants, trained):
    assert len(tenants) == 240 and len(trained) == 192
    assert len(trades()) >= 12 and len({t.trade for t in tenants}) == len(trades())
    assert len({t.name for t in tenants}) == len({t.key for t in tenants}) == 240
    assert set(topics()) <= set(TOPICS) and len(topics()) >= 14
    for row in topics().values():
        assert len(row["ask"]) >= 6 and not set(row["ask"]) & set(row["ask_heldout"])
        assert all(len(row[formality]) >= 4 for formality in VALUES["formality"])
    for t in tenants:
        assert (len(t.onboarding), len(t.preferences), len(t.heldout)) == (60, 30, 24)
        assert {d.topic for d in t.onboarding} == set(topics()) == {p.id for p in t.pages}


def test_every_value_and_pair_is_trained_but_no_held_out_triple(tenants, trained):
    for name, values in VALUES.items():
        assert {getattr(t.style, name) for t in trained} == set(values)
    axes = ("formality", "length", "register")
    for pair in combinations(axes, 2):
        assert len({tuple(getattr(t.style, a) for a in pair) for t in trained}) == 9
    triple = lambda t: tuple(getattr(t.style, a) for a in axes)
    seen = {triple(t) for t in trained}
    held = {triple(t) for t in tenants if t.held_out}
    assert len(seen) == 18 and len(held) == 9 and not seen & held
    assert all(is_held_out(t.style) == t.held_out for t in tenants)


def test_right_answers_meet_every_check_and_state_their_facts(tenants):
    for t in tenants[::3]:
        for d in (*t.onboarding, *t.heldout):
            met = check(d.answer, t.style)
            assert all(met.values()), (t.style, d.answer, met)
            assert d.facts and fact_met(d.answer, d.facts), (d.answer, d.facts)
            assert "{" not in d.answer + d.question


def test_rejected_answers_are_wrong_for_the_stated_reason(tenants):
    for t in tenants[::7]:
        for pair in t.preferences:
            assert all(check(pair.chosen, t.style).values())
            missed = {name for name, ok in check(pair.rejected, t.style).items() if not ok}
            if pair.why == "states a wrong fact":
                assert not missed and pair.rejected != pair.chosen
            else:
                # nothing but what was changed; a neutral sentence or two may still pass as formal
                changed = set(pair.why.removeprefix("wrong ").split(", "))
                assert missed <= changed and (missed or changed == {"formality"}), pair


def test_wrong_facts_are_wrong(tenants):
    for t in tenants[::7]:
        pages = " ".join(page.text for page in t.pages)
        known = {v for slots in t.facts.values() for v in slots.values()}
        assert all(fact_met(pages, [fact]) for fact in known)
        wrong = [p for p in t.preferences if p.why == "states a wrong fact"]
        for pair in wrong:
            stated = [f for f in known if fact_met(pair.chosen, [f])]
            assert stated and not fact_met(pair.rejected, stated)


def test_held_out_questions_are_new_and_can_be_known(tenants):
    for t in tenants[::5]:
        told = " ".join(turn.text for d in t.onboarding for turn in d.turns)
        asked = {d.question for d in t.onboarding} | {p.question for p in t.preferences}
        assert len(asked) == 90
        for d in t.heldout:
            assert d.question not in asked
            assert fact_met(told, d.facts)


def test_dialogues_name_their_pages_and_feedback_alternates(tenants):
    t = tenants[0]
    for d in (*t.onboarding, *t.heldout):
        assert t.page(d.pages[-1]).id == d.topic
        assert [turn.role for turn in d.turns] == ["customer", "assistant"] * (len(d.turns) // 2)
    assert Counter(f.liked for f in t.feedback) == {True: 30, False: 30}
    with pytest.raises(KeyError, match="no page 'nothing'"):
        t.page("nothing")


def test_paraphrases_are_two_wordings_on_one_topic(tenants):
    rows = paraphrases(tenants[:20])
    assert len(rows) == 100 and rows == paraphrases(tenants[:20])
    assert all(one != other and topic in topics() for topic, one, other in rows)


def test_facts_are_said_by_register_and_found_as_whole_words():
    assert phrase("12 pm", "technical") == "12:00" and phrase("8 am", "technical") == "08:00"
    assert phrase("£4.50", "technical") == "GBP 4.50" and phrase("£4", "plain") == "£4"
    assert fact_met("We close at 17:00.", ("5 pm",))
    assert not fact_met("It is £4.50.", ("£4",)) and not fact_met("At 15 pm", ("5 pm",))
    assert fact_met("It is £4.", ("£4",))


def test_the_same_seed_gives_the_same_world_and_another_another():
    assert generate(3, 20) == generate(3, 20) != generate(4, 20)
    with pytest.raises(ValueError, match="n=0"):
        generate(0, 0)


def test_the_world_is_frozen(tenants):
    """The text on which models are tuned. A change here makes earlier results of record void: regenerate them."""
    rows = [asdict(t) for t in tenants]
    for row in rows:  # what every tenant may have, and these have none of, or by their style
        del row["thumbs"], row["never"]
        for pair in row["preferences"]:
            del pair["before"]
    dump = json.dumps(rows, ensure_ascii=False, sort_keys=True)
    assert hashlib.sha256(dump.encode()).hexdigest() == FROZEN


FROZEN = "8a5af6de4d00866aeaf9c8f8e806294a283eaa5b3e21540f981c1a9f124f8a47"

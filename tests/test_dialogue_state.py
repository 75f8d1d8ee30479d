"""A conversation's state: JSON without loss, whatever is damaged refused; what is remembered of a long one."""

import dataclasses
import json

import numpy as np
import pytest

from jaxrec.dialogue.memory import LEAST, MemoryConfig, recall, remember, said, shortened
from jaxrec.dialogue.state import DialogueState, Shown, Spoken, StateError, Wishes

FULL = DialogueState(
    "c1", "U1", "ru", "food", "find", {"what": "суп", "order": "A-12"},
    Wishes(9.5, 1.0, ("i2",), ("nuts",), ("i1",), ("i2",)), "shop", ("food", "goods"), "суп",
    (Shown("i1", "Soup \u2028 \"x\"", 3.0, "leek"), Shown("i2", "Tea")),
    (Spoken(7, "user", "привет 👋"), Spoken(8, "assistant", "{}")), "was here", 9, 7, 12,
)  # fmt: skip
NAMES = ("Anna", "Boris", "Chloe", "David", "Elena", "Frank", "Greta", "Hugo", "Irina", "Jonas")
KIN = ("aunt", "cousin")
THINGS = ("colour", "soup", "novel", "city", "flower", "sport", "song", "cheese", "river", "film")


def facts() -> list[tuple[str, str]]:
    """200 facts and the questions about them, no two alike, each word of which many share."""
    whole = [(k, n, t) for k in KIN for n in NAMES for t in THINGS]
    return [
        (
            f"My {kin} {name} has {thing} number {7 * i + 13}.",
            f"Which {thing} did I say was that of my {kin} {name}?",
        )
        for i, (kin, name, thing) in enumerate(whole)
    ]


def long_talk(first: str, turns: int = 49) -> DialogueState:
    """A conversation that began with `first` and then was about other things for many turns of both sides."""
    state = said(DialogueState("c"), first, "user")
    for i in range(turns):
        state = said(state, f"Here is a soup, a novel and a cheese for {NAMES[i % 10]}: {i}.")
        state = said(state, f"Thanks, what else is there in the city, item {i}?", "user")
    return state


def test_json_there_and_back_is_exact():
    for state in (FULL, DialogueState("c"), long_talk("hi", 3)):
        assert DialogueState.from_json(state.to_json()) == state
        assert DialogueState.from_json(state.to_json().encode()) == state
    assert FULL.to_json() == DialogueState.from_json(FULL.to_json()).to_json()


def test_what_is_no_state_is_refused_in_one_line():
    told = json.loads(FULL.to_json())
    bad = {
        **{"version": 2, "turns": "x", "count": -1, "slots": [], "language": 3},
        **{"shown": [{}], "wishes": None, "options": [1]},
    }
    for name, value in bad.items():
        with pytest.raises(StateError) as caught:
            DialogueState.from_json(json.dumps({**told, name: value}))
        assert "\n" not in str(caught.value) and ("version 2" in str(caught.value)) == (
            name == "version"
        )
    for text in ("", "[]", "{", b"\xff", "null", "[" * 100_000, json.dumps({**told, "role": "x"})):
        with pytest.raises(StateError):
            DialogueState.from_json(text)
    told["turns"][0]["role"] = "system"
    with pytest.raises(StateError, match="'system' is none of"):
        DialogueState.from_json(json.dumps(told))
    del told["version"]
    with pytest.raises(StateError, match="version None"):
        DialogueState.from_json(json.dumps(told))


def check_facts(every: int) -> float:
    """The share of facts from the first turn that stand in the prompt when they are asked for at the fiftieth."""
    told = facts()
    assert len(told) == 200
    state = long_talk(" ".join(fact for fact, _ in told))
    assert told[-1][0] in state.turns[0].text  # the first turn is kept whole
    found = []
    for fact, question in told[::every]:
        asked = said(state, question, "user")
        memory = remember(asked)
        assert memory.window[-LEAST:] == asked.turns[-LEAST:] and len(memory.window) == 6
        found.append(fact in memory.text)
        assert len(memory.text) < 2_300
    return sum(found) / len(found)


def test_facts_of_the_first_turn_are_in_the_prompt_of_the_fiftieth():
    assert check_facts(every=7) >= 0.95


@pytest.mark.slow
def test_two_hundred_facts_of_the_first_turn():
    share = check_facts(every=1)
    assert share >= 0.95, share


def test_without_what_is_recalled_they_are_lost():
    state = said(long_talk(facts()[3][0]), facts()[3][1], "user")
    memory = remember(state, config=MemoryConfig(recalled=0))
    assert facts()[3][0] not in " ".join(t.text for t in memory.window)
    assert not memory.recalled


def test_a_short_answer_is_recalled_with_its_question_and_meaning_counts_where_it_is_told():
    turns = (
        Spoken(0, "assistant", "Fine. Which shoe size?"),
        Spoken(1, "user", "42"),
        Spoken(2, "user", "I live by the sea."),
    )
    assert recall(turns, "my shoe size", MemoryConfig(), None)[-1].text == "Which shoe size? 42"
    assert recall(turns, "coast", MemoryConfig(), None) == ()
    near = lambda texts: np.array(
        [[1.0, 0.0] if "sea" in t or "coast" in t else [0.0, 1.0] for t in texts]
    )
    assert recall(turns, "coast", MemoryConfig(sentences=1), near)[0].text == "I live by the sea."


def test_the_summary_keeps_what_people_say_of_themselves_and_its_size():
    assert (
        shortened("", [Spoken(0, "user", "Hello. I never eat fish. Is it open?")])
        == "I never eat fish."
    )
    state = long_talk("I never eat fish.", 60)
    assert len(state.summary) <= 800 and state.count == 121 and state.dropped == 0
    small = MemoryConfig(window=4, kept=500)
    state = DialogueState("c")
    for i in range(40):
        state = said(state, f"I need {i} pears. " + "x" * 40, "user", config=small)
    assert state.dropped + len(state.turns) == state.count == 40 and len(state.turns) < 12
    assert [turn.number for turn in state.turns] == list(range(state.dropped, 40))
    assert said(state, "q", summarise=lambda old, turns: f"{len(turns)}").summary == "1"


def test_states_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FULL.shop = "goods"
    assert FULL.change(shop="goods").revision == FULL.revision + 1 and FULL.shop == "food"

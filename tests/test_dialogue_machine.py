"""What the machine makes of messages: actions, questions back, wishes for the next list, in English and Russian."""

import pytest

from jaxrec.config import RunError
from jaxrec.dialogue import phrases
from jaxrec.dialogue.language import kept_language, script_of
from jaxrec.dialogue.machine import KINDS, Action, Talk, hear
from jaxrec.dialogue.memory import said
from jaxrec.dialogue.phrases import phrase
from jaxrec.dialogue.shops import Reading, read_message, read_shops
from jaxrec.dialogue.state import DialogueState, Shown, Wishes
from jaxrec.dialogue.wishes import read_wishes

TALK = Talk()
LIST = (
    Shown("i1", "Margherita pizza", 8.9),
    Shown("i2", "Pepperoni pizza", 10.5),
    Shown("i3", "Truffle mushroom pizza", 14.9),
)


def converse(*messages: str, shown=LIST, talk: Talk = TALK) -> tuple[DialogueState, list[Action]]:
    """The state at the end, and what was to be done about each; every list that is wanted is the same one."""
    state, actions = DialogueState("c"), []
    for message in messages:
        state, action = hear(talk, state, message)
        assert action.kind in KINDS and DialogueState.from_json(state.to_json()) == state
        actions.append(action)
        if action.kind == "recommend":
            state = said(state, "a list", shown=shown)
    return state, actions


def test_a_search_and_its_slots():
    state, (hello, ask, find) = converse("hello", "I want something", "pizza for tonight")
    assert hello.kind == "greet" and ask.kind == "ask" and ask.slot == "what"
    assert (find.kind, find.shop, find.query) == ("recommend", "food", "pizza for tonight")
    assert state.slots["what"] == "pizza for tonight" and state.shown == LIST


@pytest.mark.parametrize(
    ("message", "wishes"),
    [
        ("cheaper", Wishes(most=10.49)),
        ("the second is too expensive", Wishes(most=10.49)),
        ("something cheaper than the first one please", Wishes(most=8.89)),
        ("more expensive", Wishes(least=10.51)),
        ("under £7", Wishes(most=7.0)),
        ("no more than 1 200,50", Wishes(most=1200.5)),
        ("between 5 and 10", Wishes(most=10.0, least=5.0)),
        ("not the second one", Wishes(without=("i2",))),
        ("not this one", Wishes(without=("i1",))),
        ("not the truffle one", Wishes(without=("i3",))),
        ("another", Wishes(without=("i1", "i2", "i3"))),
        ("none of these", Wishes(without=("i1", "i2", "i3"))),
        ("👎 2", Wishes(without=("i2",), disliked=("i2",))),
        ("👍", Wishes(liked=("i1",))),
        ("I like the last one", Wishes(liked=("i3",))),
        ("I'm allergic to nuts and dairy", Wishes(avoid=("nuts", "dairy"))),
        ("gluten-free please", Wishes(avoid=("gluten",))),
        ("without mushrooms", Wishes(avoid=("mushrooms",))),
        ("подешевле", Wishes(most=10.49)),
        ("не дороже 500 рублей", Wishes(most=500.0)),
        ("не второй", Wishes(without=("i2",))),
        ("другие", Wishes(without=("i1", "i2", "i3"))),
        ("без свинины", Wishes(avoid=("свинины",))),
        ("у меня аллергия на арахис", Wishes(avoid=("арахис",))),
        ("мне нравится третий", Wishes(liked=("i3",))),
    ],
)
def test_a_wish_changes_the_next_list_at_once_and_not_what_is_sought(message, wishes):
    state, actions = converse("show me pizza", message)
    assert (actions[-1].kind, actions[-1].wishes, actions[-1].query) == (
        "recommend",
        wishes,
        "show me pizza",
    )
    assert state.wishes == wishes and actions[-1].shop == "food"


@pytest.mark.parametrize(
    "message",
    [
        "a table for under 8 people",
        "before 5 pm, up to 7 pm",
        "no thanks",
        "no problem at all",
        "12345",
        "I have 3 children",
    ],
)
def test_what_is_no_wish(message):
    assert not read_wishes(message, LIST).is_any


def test_wishes_add_up_and_a_thumb_can_be_taken_back():
    state, _ = converse(
        "pizza", "under 20", "not the second", "👎 3", "no nuts", "I like the third"
    )
    assert state.wishes == Wishes(20.0, None, ("i2",), ("nuts",), ("i3",), ())
    assert converse("pizza", "under 5", "over 8")[0].wishes == Wishes(None, 8.0)
    assert converse("pizza", "under 5", "any price")[0].wishes == Wishes()
    assert converse("pizza", "under 5", "start over")[1][-1].slot == "what"


def test_cheaper_without_a_price_asks_for_one():
    bare = (Shown("i1", "Kettle"),)
    _, actions = converse("a kettle", "cheaper", "20", shown=bare)
    assert (actions[1].kind, actions[1].slot) == ("ask", "price")
    assert (actions[2].kind, actions[2].wishes.most, actions[2].query) == (
        "recommend",
        20.0,
        "a kettle",
    )


def test_what_was_guessed_is_said():
    assert "read as the first, Margherita pizza" in converse("pizza", "not this")[1][-1].notes[0]
    assert converse("pizza", "not this", shown=LIST[:1])[1][-1].notes == ()
    assert converse("pizza", "cheaper")[1][-1].notes == ("cheaper: below 10.5",)


def test_two_readings_that_tie_are_asked_about():
    _, (ask, find) = converse("show me a mug or tea", "goods")
    assert (ask.kind, ask.slot, ask.options) == ("ask", "shop", ("food", "goods"))
    assert (find.kind, find.shop, find.query) == ("recommend", "goods", "show me a mug or tea")
    tied = Talk(read=lambda text: Reading({}, {"status": 1.0, "return": 1.0}, {}))
    state, action = hear(tied, DialogueState("c"), "my parcel")
    assert (action.kind, action.options) == ("ask", ("status", "return"))
    state, action = hear(TALK, state, "2")
    assert (action.kind, action.slot, state.goal) == ("ask", "order", "return")


def test_missing_slots_are_asked_for_and_another_topic_leaves_the_question():
    state, actions = converse("where is my order?", "ok", "number 4455")
    assert [a.slot for a in actions] == ["order", "order", ""] and state.slots["order"] == "4455"
    assert actions[-1].kind == "answer" and "4455" in actions[-1].query
    _, actions = converse("I want to return order 1234, it is broken")
    assert actions[0].kind == "answer" and actions[0].slots == {
        "order": "1234", "reason": "I want to return order 1234, it is broken"
    }  # fmt: skip
    state, actions = converse("where is my order?", "show me pizza")
    assert actions[-1].kind == "recommend" and state.asked == ""


def test_questions_bring_their_topic_along():
    _, actions = converse(
        "show me pizza", "is it vegan?", "why the truffle one?", "how much is delivery?"
    )
    assert (actions[1].kind, actions[1].query) == ("answer", "show me pizza is it vegan?")
    assert (actions[2].kind, actions[2].item) == ("explain", "i3")
    assert (actions[3].kind, actions[3].query) == ("answer", "how much is delivery?")
    assert converse("why do you think so?")[1][0].kind in ("ask", "answer")


def test_refusals_and_odd_messages():
    talk = Talk(refuses=lambda text: "on the list" if "bomb" in text else "")
    assert converse("a bomb", talk=talk)[1][0].notes == ("on the list",)
    for message in ("", "   ", "...", "\x00", "\u200b"):
        assert converse(message)[1][0].kind == "ask"
    assert "bytes" in converse(b"tea \xff")[1][0].notes[0]
    state, (action,) = converse("x" * 1_000_000)
    assert len(state.turns[0].text) == 16_000 and "length" in action.notes[0]
    assert converse("thanks a lot, bye!")[1][0].kind == "close"


def test_the_language_is_kept():
    _, actions = converse(
        "Привет", "ok", "iPhone", "show me something for the kitchen", "по-русски, пожалуйста"
    )
    assert [a.language for a in actions] == ["ru", "ru", "ru", "en", "ru"]
    assert actions[0].text.startswith("Здравствуйте")
    assert kept_language("", "12 !") == "" and script_of("абв abc") == ""
    for name in ("en", "ru"):
        assert set(phrases._PHRASES[name]) == set(phrases._PHRASES["en"])
    assert phrase("greet", "de") == phrase("greet", "en")
    with pytest.raises(RunError, match="no sentence 'gret'"):
        phrase("gret", "en")


def test_a_file_of_shops_of_ones_own(tmp_path):
    with pytest.raises(RunError, match="cannot be read"):
        read_shops(tmp_path / "none.toml")
    for text in (
        "x = 1",
        "[shop.a]\nname={en='a'}\nabout='a'\nwords='a'\n[goal.find]\nabout='f'\nneeds=['zz']\nmay=[]\nwords='w'\n[slot.what]\nabout='w'\nask={en='?'}",
    ):
        (tmp_path / "shops.toml").write_text(text)
        with pytest.raises(RunError, match=r"shops\.toml"):
            read_shops(tmp_path / "shops.toml")
    assert {one.name for one in read_shops().shops} == {"food", "goods", "health"}


def test_what_must_be_avoided_is_known_by_its_kind():
    shops = read_shops()
    assert shops.forbidden(["nuts"], "Almond praline") == ("nuts",)
    assert shops.forbidden(["молочного"], "Сырный суп") == ("молочного",)
    assert shops.forbidden(["mushrooms"], "Truffle mushroom pizza") == ("mushrooms",)
    assert shops.forbidden(["egg", "nut", "ham"], "Eggplant, coconut and a hamper") == ()
    assert read_message("витамины для сна", shops).shops == {"health": 2.0}

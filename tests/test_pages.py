"""The page in front of a conversation: the right one or a found one, in whole sentences that fit."""

import dataclasses

import pytest

from jaxrec.data.chat import OwnChat
from jaxrec.data.tenant import Dialogue, Page, Tenant, Turn
from jaxrec.data.text import train_tokenizer
from jaxrec.dialogue.pages import (
    PageFinder,
    PagesConfig,
    asked_in,
    ground,
    shortened,
    system_text,
    with_pages,
)

HOURS = Page("hours", "Opening hours", "We open at nine. Sunday is quiet. On Monday we are closed.")
FEES = Page("fees", "What it costs", "A haircut costs £12. Children pay half.")


def said(number: int, question: str, answer: str, *pages: str) -> Dialogue:
    turns = (Turn("customer", question), Turn("assistant", answer))
    return Dialogue(str(number), turns, pages=pages)


TENANT = Tenant(
    "oak",
    "Oak Barbers",
    pages=(HOURS, FEES),
    onboarding=(said(0, "May I drop in early?", "From nine, yes!", "hours"),),
    heldout=(
        said(1, "Is it closed on Monday?", "It is.", "hours"),
        said(2, "How early may I drop in?", "At nine.", "hours"),
    ),
)


@pytest.fixture(scope="module")
def chat():
    texts = [HOURS.text, FEES.text, TENANT.name, *(d.question for d in TENANT.heldout)]
    return OwnChat(train_tokenizer(texts * 4, 300))


def test_a_page_is_found_by_its_words_and_by_what_was_asked_of_it():
    finder = PageFinder(TENANT)
    assert [p.id for p in finder.find("what does a haircut cost")] == ["fees"]
    assert [p.id for p in finder.find("May we drop in early?")] == ["hours"]  # no word of the page
    assert finder.find("zebra") == []


def test_the_system_turn_holds_name_and_page_and_the_rest_stays(chat):
    (grounded,) = with_pages(chat, [TENANT], PagesConfig("right", length=99), 200)
    first = grounded.heldout[0]
    assert first.turns[0] == Turn("system", system_text(TENANT, [HOURS.text]))
    assert first.turns[1:] == TENANT.heldout[0].turns
    assert first.answer == TENANT.heldout[0].answer and first.pages == ("hours",)
    (named,) = with_pages(chat, [TENANT], PagesConfig("name"), 200)
    assert named.heldout[0].turns[0].text == "You write for Oak Barbers."
    assert with_pages(chat, [TENANT], PagesConfig(), 200) == [TENANT]


def test_of_a_long_page_the_sentences_stay_that_share_most_with_the_question(chat):
    room = len(chat.encode(" On Monday we are closed.")) + 1
    assert shortened(chat, HOURS.text, "Monday, maybe?", room) == "On Monday we are closed."
    assert shortened(chat, HOURS.text, "zebra", 999) == HOURS.text


def test_of_a_long_conversation_the_earliest_exchange_goes_and_the_page_stays(chat):
    talk = (Turn("customer", "zebra " * 30), Turn("assistant", "No."), *TENANT.heldout[0].turns)
    long = dataclasses.replace(TENANT, heldout=(Dialogue("long", talk, pages=("hours",)),))
    (grounded,) = with_pages(chat, [long], PagesConfig("right", length=99), 120)
    assert [t.role for t in grounded.heldout[0].turns] == ["system", "customer", "assistant"]


def test_a_share_of_the_conversations_gets_pages_the_same_ones_each_time(chat):
    many = dataclasses.replace(TENANT, heldout=TENANT.heldout * 20)
    cfg = PagesConfig("retrieved", length=99, share=0.5)
    first, again = (with_pages(chat, [many], cfg, 200, seed=1)[0].heldout for _ in range(2))
    with_page = sum("from this page" in d.turns[0].text for d in first)
    assert first == again and 5 < with_page < 35


def test_a_question_without_words_of_its_own_is_found_by_what_came_before():
    turns = (
        Turn("user", "What does it cost?"),
        Turn("assistant", "£12."),
        Turn("user", "And for two?"),
    )
    finder = PageFinder(TENANT)
    assert finder.find("And for two?") == []
    assert [p.id for p in finder.find(asked_in(turns))] == ["fees"]
    assert PageFinder(Tenant("bare")).find("cost") == []


def test_a_conversation_is_grounded_in_a_page_or_in_the_name_alone(chat):
    cfg, asked = PagesConfig("retrieved", length=99), [Turn("user", "What does it cost?")]
    read = ground(chat, TENANT, asked, [FEES], cfg, 200)
    assert read.pages == ("fees",) and read.turns[1:] == tuple(asked)
    assert read.turns[0].text == system_text(TENANT, [FEES.text])
    bare = ground(chat, TENANT, asked, [], cfg, 200)
    assert bare.pages == () and bare.turns[0].text == "You write for Oak Barbers."
    # A question that is longer than all the room stays: it is cut where rows are made.
    long = ground(chat, TENANT, [Turn("user", "zebra " * 80)], [FEES], cfg, 50)
    assert [turn.role for turn in long.turns] == ["system", "user"]


def test_another_page_may_stand_beside_the_right_one_which_stays_whole(chat):
    many = dataclasses.replace(TENANT, heldout=TENANT.heldout * 20)
    cfg = PagesConfig("right", length=99, beside=0.5)
    (told,) = with_pages(chat, [many], cfg, 300)
    texts = [d.turns[0].text for d in told.heldout]
    assert all(HOURS.text in text for text in texts)
    both = [text for text in texts if FEES.text in text]
    assert 10 < len(both) < 30 and {
        text.index(FEES.text) < text.index(HOURS.text) for text in both
    } == {True, False}

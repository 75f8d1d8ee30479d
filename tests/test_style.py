"""A style's closed lists, how an answer is dressed in it, and the checks that take it apart again."""

from dataclasses import replace

import pytest

from jaxrec.world.style import (
    VALUES,
    Style,
    body,
    check,
    dress,
    fraction_met,
    lower_first,
    sentence_count,
)

PLAIN = Style("casual", "medium", "Hey!", "Cheers!", "🌿", 2, "", "guest", "parcel", "plain")
LINES = ["We're open till six.", "It's quiet in the morning."]


def test_dress_and_body_are_inverse():
    answer = dress(LINES, PLAIN)
    assert answer == "Hey! 🌿 We're open till six. It's quiet in the morning. 🌿 Cheers!"
    assert body(answer) == " ".join(LINES)


def test_a_greeting_with_a_comma_goes_on_in_lower_case():
    style = replace(PLAIN, greeting="Dear guest,", emoji="", emoji_count=0)
    assert dress(LINES, style).startswith("Dear guest, we're open")
    assert dress(LINES, style, "Good news:").startswith("Dear guest, good news: we're open")
    assert lower_first("I am") == "I am" and lower_first("GBP 4") == "GBP 4"


def test_a_dressed_answer_meets_all_its_checks():
    for disclaimer in VALUES["disclaimer"]:
        for greeting in VALUES["greeting"]:
            for sign_off in VALUES["sign_off"]:
                style = replace(PLAIN, greeting=greeting, sign_off=sign_off, disclaimer=disclaimer)
                met = check(dress(LINES, style), style)
                assert all(met.values()), (style, met)


@pytest.mark.parametrize(
    ("attribute", "change"),
    [
        ("greeting", {"greeting": ""}),
        ("greeting", {"greeting": "Welcome."}),
        ("sign_off", {"sign_off": "Take care."}),
        ("emoji", {"emoji": "✨"}),
        ("emoji_count", {"emoji_count": 1}),
        ("disclaimer", {"disclaimer": "Prices may change without notice."}),
        ("length", {"length": "short"}),
        ("length", {"length": "long"}),
        ("formality", {"formality": "formal"}),
        ("register", {"register": "playful"}),
        ("register", {"register": "technical"}),
    ],
)
def test_another_style_misses_just_that_check(attribute, change):
    met = check(dress(LINES, PLAIN), replace(PLAIN, **change))
    assert [name for name, ok in met.items() if not ok] == [attribute]


@pytest.mark.parametrize(
    ("text", "formality"),
    [
        ("You may visit us from nine.", "formal"),
        ("The fee is waived, and the visit may be moved.", "formal"),
        ("Pop in from nine, mate.", "casual"),
        ("We open at nine.", "neutral"),
    ],
)
def test_formality_of_texts_by_hand(text, formality):
    style = replace(PLAIN, formality=formality)
    assert check(text, style)["formality"]
    rival = {"formal": "casual", "casual": "formal", "neutral": "casual"}[formality]
    assert not check(text, replace(style, formality=rival))["formality"]


def test_rival_terms_are_caught_and_other_uses_are_not():
    assert check("Your parcel is here.", PLAIN)["terms"]
    assert not check("Your bookings are here.", PLAIN)["terms"]
    assert not check("Our clients like it.", PLAIN)["terms"]
    assert check("In order to see it, come by.", PLAIN)["terms"]
    assert check("Dear guest, it is here.", replace(PLAIN, customer="client"))["terms"]


def test_checks_are_tolerant_of_case_punctuation_and_curly_quotes():
    answer = "hey, 🌿 we’re open until 5.30. It’s quiet. 🌿 CHEERS"
    assert all(check(answer, PLAIN).values())


def test_sentences_are_counted_past_numbers_and_abbreviations():
    assert sentence_count("It is £4.50, e.g. for two. Come at 9.30!") == 2
    assert sentence_count("Really?! Yes...") == 2
    assert sentence_count("") == 0


def test_fraction_met_counts_nine_checks():
    assert fraction_met(dress(LINES, PLAIN), PLAIN) == 1.0
    assert fraction_met(dress(LINES, PLAIN), replace(PLAIN, length="short")) == pytest.approx(8 / 9)


def test_bad_styles_are_refused_by_name():
    with pytest.raises(ValueError, match="length='huge'"):
        replace(PLAIN, length="huge")
    with pytest.raises(ValueError, match="emoji_count=0"):
        replace(PLAIN, emoji_count=0)
    row = PLAIN.to_json()
    assert Style.from_json(row) == PLAIN
    with pytest.raises(ValueError, match=r"missing \['order'\], unknown \['mood'\]"):
        Style.from_json({**row, "terms": {"customer": "guest"}, "mood": "good"})


def test_an_empty_answer_meets_no_check():
    style = Style.from_json(
        {
            "formality": "neutral", "length": "short", "greeting": "", "sign_off": "", "emoji": "", "emoji_count": 0,
            "disclaimer": "", "terms": {"customer": "guest", "order": "order"}, "register": "plain",
        }
    )  # fmt: skip
    assert fraction_met("", style) == 0
    assert fraction_met("...", style) == 0
    assert fraction_met("The shop is open today.", style) == 1

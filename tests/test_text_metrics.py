"""ROUGE-L, greedy matching and distinct-n by hand and against the reference package; claims against a catalogue."""

import random

import numpy as np
import pytest

from jaxrec import text_metrics
from jaxrec.text_metrics import (
    ROUGE,
    Catalogue,
    distinct_n,
    main_title,
    rouge,
    rouge_l,
    rouge_words,
    same_text,
    soft_match,
)


def test_rouge_l_by_hand():
    # Lin 2004: "police killed the gunman" against "police kill the gunman": three of four words in order
    assert rouge_l("police kill the gunman", "police killed the gunman") == pytest.approx(
        [0.75] * 3
    )
    assert rouge_l("the gunman kill police", "police killed the gunman").f1 == pytest.approx(0.5)
    precision, recall, f1 = rouge_l("a b", "a x b y")
    assert (precision, recall) == (1.0, 0.5) and f1 == pytest.approx(2 / 3)
    assert rouge_l("", "a") == (0, 0, 0) and rouge_l("!", "?") == (0, 0, 0)


@pytest.mark.parametrize("stem", [False, True])
def test_rouge_of_plain_english_is_the_packages(stem: bool):
    """Its own tokenizer and ours see the same words there, stems included."""
    from rouge_score.rouge_scorer import RougeScorer

    theirs = RougeScorer(list(ROUGE), use_stemmer=stem)
    draw = random.Random(0)
    words = "the a cat's sat on-a mats, It 7 running connected connection police_man".split()
    for _ in range(40):
        a, b = (" ".join(draw.choices(words, k=draw.randint(0, 12))) for _ in "ab")
        told, found = theirs.score(b, a), rouge(a, b, stem=stem)
        for kind in ROUGE:
            same = told[kind].precision, told[kind].recall, told[kind].fmeasure
            assert found[kind] == pytest.approx(same)


def test_rouge_counts_words_of_any_script():
    assert rouge_words("Привет, café_2!") == ["привет", "café", "2"]
    assert rouge_words("हिन्दी भाषा") == ["हिन्दी", "भाषा"]  # vowel signs belong to their letters
    assert rouge_words("你好 world") == ["你", "好", "world"]  # no spaces: a character is a word
    assert rouge("Доставка завтра", "доставка сегодня")["rouge1"].f1 == pytest.approx(0.5)


def test_exact_is_but_for_white_space():
    assert same_text(" a  b\n", "a b") and not same_text("a b", "A b")


def test_soft_match_by_hand():
    a = np.array([[1.0, 0.0], [0.0, 2.0]])
    b = np.array([[3.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])
    precision, recall, f1 = soft_match(a, b)
    half = np.sqrt(0.5)
    assert precision == pytest.approx((1 + half) / 2)
    assert recall == pytest.approx((1 + half + 0) / 3)
    assert f1 == pytest.approx(2 * precision * recall / (precision + recall))
    assert soft_match(a, a) == pytest.approx((1, 1, 1))
    assert soft_match(a[:0], b) == (0, 0, 0)


def test_soft_matches_embeds_all_texts_at_once():
    calls = []

    def embed(texts):
        calls.append(list(texts))
        return [np.eye(4)[[len(w) % 4 for w in t.split()]] for t in texts]

    found = text_metrics.soft_matches(["a bb", "ccc"], ["a bb", "d"], embed)
    assert calls == [["a bb", "ccc", "a bb", "d"]]
    assert [m.f1 for m in found] == pytest.approx([1, 0])
    with pytest.raises(ValueError, match="2 candidates for 1"):
        text_metrics.soft_matches(["a", "b"], ["a"], embed)


def test_distinct_n():
    assert distinct_n(["a b a b"], 1) == 0.5
    assert distinct_n(["a b a b"], 2) == pytest.approx(2 / 3)
    assert distinct_n(["a b", "a b"], 2) == 0.5
    assert distinct_n(["a"], 2) == 0


def test_main_titles():
    assert main_title("High Voltage (Fever)") == "High Voltage"
    assert main_title("Wedding Night: A Novel") == "Wedding Night"
    assert main_title("Fugitive, The (1993)") == "The Fugitive"
    assert main_title("(2)") == "(2)"


CATALOGUE = Catalogue(
    ["Blue Train (1957)", "Kind of Blue", "Giant Steps", "Blue"],
    [["Jazz", "the Prestige brand", "1957"], ["Jazz", "1959"], ["Rock"], ["Folk Music"]],
)


def check(text, persona=("soul", "rock")):
    return CATALOGUE.check(text, "Blue Train (1957)", ["Jazz", "1957"], persona)


def test_the_right_item_and_its_attributes():
    said = check("Blue Train is jazz from 1957, for those who like soul.")
    assert said.named and not said.others and not said.false
    assert said.true == ("Jazz", "1957")
    assert said.persona == ("soul",)


def test_another_item_and_what_is_not_true_of_this_one():
    said = check("You will love KIND of Blue, folk music from 1959")
    assert not said.named
    assert said.others == ("kind of blue",)
    assert set(said.false) == {"folk music", "1959"}


def test_what_is_no_claim():
    # the persona likes rock; "blue" alone is a word; a title inside one's own is one's own
    said = check("Since you like rock, Blue Train may suit a blue evening")
    assert said.named and not said.others and not said.false
    assert check("Rock!", persona=()).false == ("rock",)
    assert not check("").named


def test_a_trailing_article_may_stand_on_either_side():
    films = Catalogue(["Shining, The (1980)"])
    assert films.check("The Shining is for you", "Shining, The (1980)").named
    assert films.check("You might enjoy Shining, The", "Shining, The (1980)").named
    assert not films.check("A shining light", "Shining, The (1980)").named

"""Judges: rules, rewards, a language model asked in both orders, and the files that they label."""

import json
import math

import jax
import numpy as np
import pytest
import tiny_personal as tiny

from jaxrec.data.pairs import read_pairs
from jaxrec.models.language.tuned_lm import TunedLM
from jaxrec.models.personal.continuations import ContinuationError, scorer
from jaxrec.rewards import judges
from jaxrec.rewards.judges import (
    AnswerJudgeConfig,
    AnswerJudgeError,
    Choice,
    LanguageJudge,
    RuleJudge,
    Verdict,
)

POLITE = "Thank you for asking, we deliver on every day of the week to your door."
RUDE = "No."


def test_criteria():
    band = judges.length_band(4, 8)
    assert [band("", "w " * n) for n in (0, 2, 4, 8, 16)] == [0.0, 0.5, 1.0, 1.0, 0.5]
    assert judges.phrase_share("thank you", "please")("", "Thank you!") == 0.5
    assert judges.phrase_share("thanks")("", "thankso") == 0.0
    assert (
        judges.forbidden("no")("", "No way") == 0.0 and judges.forbidden("no")("", "nothing") == 1.0
    )
    ask = "Do you deliver on Sunday evenings to the coast?"
    assert judges.own_words()(ask, ask) == 0.0 and judges.own_words()(ask, POLITE) == 1.0
    assert judges.no_repetition()("", "we do it we do it we do it") < 0.5
    assert judges.style(r"!$", wanted=False)("", "Yes!") == 0.0


def test_rule_judge():
    judge = RuleJudge(
        {
            "length": (judges.length_band(5, 30), 2.0),
            "thanks": (judges.phrase_share("thank you"), 1.0),
        }
    )
    ask = "Do you deliver?"
    told = judge([Choice(ask, POLITE, RUDE), Choice(ask, RUDE, POLITE), Choice(ask, RUDE, RUDE)])
    assert [t.preferred for t in told] == [0, 1, None]
    assert told[0].confidence == told[1].confidence > 0.9 and told[2].confidence == 0
    assert told[0].why == "length, thanks"
    with pytest.raises(AnswerJudgeError, match="criteria"):
        RuleJudge({})
    with pytest.raises(AnswerJudgeError, match="NaN"):
        RuleJudge({"x": (lambda prompt, answer: math.nan, 1.0)})([Choice("a", "b", "c")])
    assert (
        AnswerJudgeConfig("rule", forbidden=("no",))
        .rule()([Choice(ask, RUDE, POLITE)])[0]
        .preferred
        == 1
    )


def test_reward_as_judge():
    judge = judges.reward_judge(lambda asked: [len(said) / 10 for _, said in asked])
    told = judge([Choice("a", "12345", "1234567890")])[0]
    assert told.preferred == 1 and told.confidence == pytest.approx(math.tanh(0.25))
    with pytest.raises(AnswerJudgeError, match="NaN"):
        judges.reward_judge(lambda asked: [math.nan] * len(asked))([Choice("a", "b", "c")])
    with pytest.raises(AnswerJudgeError, match="numbers"):
        judges.reward_judge(lambda asked: [1.0])([Choice("a", "b", "c")])


def test_a_liking_for_the_first_place_cancels():
    """A model that sees nothing and always says A has no opinion; one with an opinion keeps it."""
    always_a = lambda prompts, names: [-0.1 if name == " A" else -3.0 for name in names]
    told = LanguageJudge(always_a)([Choice("q", POLITE, RUDE)])[0]
    assert told.preferred is None and told.confidence == 0

    def polite(prompts, names):
        likes = ["A" if p.index(POLITE) < p.index("Answer B") else "B" for p in prompts]
        lean = lambda like, name: (1.0 if name.strip() == like else 0.0) + (name == " A") * 0.8
        return [lean(like, name) - 2 for like, name in zip(likes, names, strict=True)]

    judge = LanguageJudge(polite)
    told = judge([Choice("q", POLITE, RUDE), Choice("q", RUDE, POLITE)])
    assert [t.preferred for t in told] == [0, 1]
    assert told[0].confidence == pytest.approx(math.tanh(0.5))
    with pytest.raises(AnswerJudgeError, match="finite"):
        LanguageJudge(lambda p, n: [math.nan] * len(p))([Choice("a", "b", "c")])
    with pytest.raises(AnswerJudgeError, match=r"lacks \{second\}"):
        LanguageJudge(always_a, template="{prompt}{first}")


def test_what_a_user_writes_is_no_template():
    asked = LanguageJudge(lambda p, n: [0.0] * len(p))._ask("{first}", "{second}", "b")
    assert "Request: {first}" in asked and "Answer A: {second}" in asked


def test_a_real_model_as_judge():
    """The log-probabilities of `scorer` are the model's own, however a text is padded; the judge is antisymmetric."""
    lm, tree = TunedLM(tiny.LM.backbone), {"backbone": tiny.backbone()}
    encode = lambda said: [16 + ord(c) % 24 for c in said]
    score = scorer(lm, tree, encode, first=[1], length=96, rows=4)
    ids = np.array([[1, *encode("hello"), *encode(" A")]], np.int32)
    logits = jax.jit(lm.backbone.apply)({"params": tree["backbone"]}, ids, ids > 0).logits[0]
    log_p = jax.nn.log_softmax(logits)
    wanted = sum(float(log_p[i - 1, ids[0, i]]) for i in (6, 7))
    assert score(["hello"], [" A"])[0] == pytest.approx(wanted, abs=1e-4)
    judge = LanguageJudge(score, template="{prompt}|{first}|{second}|")
    one, other = judge([Choice("q", "abc", "xyz"), Choice("q", "xyz", "abc")])
    assert one.preferred == 1 - other.preferred
    assert one.confidence == pytest.approx(other.confidence, abs=1e-4) and 0 < one.confidence <= 1
    with pytest.raises(ContinuationError, match="tokens"):
        score(["a"], [""])


def test_labelled_pairs_are_written_and_read(tmp_path):
    told = {
        "sure": Verdict(1, 0.9, "why"),
        "unsure": Verdict(0, 0.1),
        "equal": Verdict(None, 0.0),
    }
    judge = lambda choices: [told[c.prompt] for c in choices]
    choices = [Choice(prompt, "one", "two") for prompt in told] + [Choice("sure", "one", "one ")]
    choices.append(
        Choice("sure", "one", "two", (("user", "hi"), ("assistant", "yes?"), ("user", "sure")))
    )
    counts = judges.label(choices, judge, tmp_path / "x.jsonl", threshold=0.2, batch=2)
    assert counts == {
        "written": 2, "second": 2, "below threshold": 1, "no difference": 1, "same answers": 1,
    }  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert rows[0]["confidence"] == 0.9 and rows[0]["why"] == "why"
    found, skipped = read_pairs(str(tmp_path / "x.jsonl"))
    assert not skipped.counts and [(p.chosen, p.rejected) for p in found] == [("two", "one")] * 2
    assert found[1].prompt == choices[-1].turns


def test_a_judge_that_answers_wrongly(tmp_path):
    asked = [Choice("a", "b", "c")]
    with pytest.raises(AnswerJudgeError, match="1 choices"):
        judges.label(asked, lambda choices: [], tmp_path / "x.jsonl")
    with pytest.raises(AnswerJudgeError, match="confidence"):
        judges.label(asked, lambda choices: [Verdict(0, 1.5)], tmp_path / "x.jsonl")
    assert not (tmp_path / "x.jsonl").exists()

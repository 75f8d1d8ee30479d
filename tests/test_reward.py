"""GenRec's reward as specified, the guard beside it, and what is said of a reward that answers wrongly."""

import math

import pytest

from jaxrec.rewards.reward import (
    GenRec,
    RewardError,
    Sample,
    Score,
    by_name,
    gaming,
    numbers,
    score_samples,
)

NEUTRAL = (
    "sturdy metal bottle keeps water cold through long summer hikes and fits every bike cage well"
)


def specified(text: str, rating: float) -> float:
    """The specification's own function, line by line."""
    score = 0.0
    count = len(text.split())
    score += 0.3 if 15 <= count <= 60 else -0.2
    if any(word in text.lower() for word in ["your", "you", "based on", "preference"]):
        score += 0.4
    if rating >= 4 and any(w in text.lower() for w in ["excellent", "great", "perfect", "love"]):
        score += 0.2
    if any(p in text.lower() for p in ["this product is good", "you might like this"]):
        score -= 0.3
    return max(-1.0, min(1.0, score))


@pytest.mark.parametrize(
    ("text", "rating", "parts"),
    [
        (NEUTRAL, 5, (0.3, 0.0, 0.0, 0.0)),
        (f"Based on that {NEUTRAL}", 3, (0.3, 0.4, 0.0, 0.0)),
        (f"PERFECT for you {NEUTRAL}", 4, (0.3, 0.4, 0.2, 0.0)),
        (f"perfect for you {NEUTRAL}", 3.9, (0.3, 0.4, 0.0, 0.0)),
        ("You might like this", 5, (-0.2, 0.4, 0.0, -0.3)),
        ("this product is good", 1, (-0.2, 0.0, 0.0, -0.3)),
        ("", 5, (-0.2, 0.0, 0.0, 0.0)),
        ("a young man " + NEUTRAL, 1, (0.3, 0.4, 0.0, 0.0)),  # "young" holds "you", as specified
        (" ".join(["word"] * 60), 1, (0.3, 0.0, 0.0, 0.0)),
        (" ".join(["word"] * 61), 1, (-0.2, 0.0, 0.0, 0.0)),
        (" ".join(["word"] * 14), 1, (-0.2, 0.0, 0.0, 0.0)),
    ],
)
def test_genrec_is_the_specification(text, rating, parts):
    (score,) = GenRec()([Sample("p", text, rating)])
    assert tuple(score.parts.values()) == parts
    assert list(score.parts) == ["length", "personal", "sentiment", "generic"]
    assert math.isclose(score.total, specified(text, rating), abs_tol=1e-12)


def test_a_person_without_a_rating_earns_no_sentiment():
    assert GenRec().score(Sample("p", "great " + NEUTRAL)).parts["sentiment"] == 0.0


def test_signs_of_gaming():
    honest = gaming(Sample("Item: a metal bottle", f"Based on your hikes, this {NEUTRAL}"))
    assert max(honest.values()) == 0.0
    again = gaming(Sample("p", "love it " * 10))
    assert again["repetition"] == 1 - 2 / 19 and again["stuffing"] == 1.0
    prompt = "Instruction: say why this sturdy bottle is the one to take along"
    assert gaming(Sample(prompt, "why this sturdy bottle is the one"))["copying"] == 1.0
    assert gaming(Sample(prompt, "why this sturdy bottle breaks"))["copying"] == 0.5
    stuffed = gaming(Sample("p", "you love great perfect excellent preference based on you"))
    assert stuffed["stuffing"] == 1.0
    assert gaming(Sample("p", "")) == {"repetition": 0.0, "copying": 0.0, "stuffing": 0.0}


def test_the_guard_is_beside_the_reward_unless_it_is_asked_in():
    sample = Sample("p", "perfect for you " * 6, 5)
    plain, guarded = GenRec().score(sample), GenRec(subtract=0.5).score(sample)
    assert plain.total == specified(sample.text, 5) and plain.gaming == guarded.gaming
    assert guarded.total == plain.total - 0.5 * max(plain.gaming.values())
    assert GenRec(subtract=9.0).score(sample).total == -1.0
    assert numbers(plain)["reward/personal"] == 0.4 and numbers(plain)["reward"] == plain.total
    assert by_name("genrec-guarded")([sample])[0].total < plain.total


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (lambda s: [Score(0.1), Score(math.nan)], r"total is nan for sample 1 \('second'\)"),
        (lambda s: [Score(0.1), Score(0.1, {"length": math.inf})], "length is inf for sample 1"),
        (lambda s: [Score(0.1)], "1 scores for 2 samples; the first without its own is sample 1"),
        (lambda s: [Score(0.1)] * 3, "3 scores for 2 samples"),
        (lambda s: [Score(0.1), 0.5], "float instead of a Score for sample 1"),
        (lambda s: 0.5, "gave float, not a list"),
    ],
)
def test_a_wrong_answer_names_its_sample(reward, said):
    with pytest.raises(RewardError, match=said):
        score_samples(reward, [Sample("p", "first"), Sample("p", "second")])


def test_rewards_by_name(monkeypatch):
    assert by_name("genrec") == GenRec()
    assert by_name("jaxrec.rewards.reward:gaming") is gaming
    for name, said in {
        "genrc": "no reward 'genrc'; there are genrec",
        "no.such.module:x": "cannot be imported",
        "math:nothing": "cannot be imported",
        "math:pi": "not a callable",
    }.items():
        with pytest.raises(RewardError, match=said):
            by_name(name)

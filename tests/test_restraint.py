"""Optional terms of the personal stages: KL to the reference policy, and tokens that may not be said."""

import jax
import numpy as np
import pytest
import tiny_personal as tiny

from jaxrec import objectives
from jaxrec.losses.tokens import disallowed_tokens
from jaxrec.objectives.restraint import Restraint

B, TENANTS = 4, [0, 0, 1, 1]


def barred(*ids: int) -> np.ndarray:
    out = np.zeros((7, tiny.VOCAB), bool)
    out[:, list(ids)] = True
    return out


def test_the_penalty_is_the_binary_cross_entropy_of_the_disallowed_mass():
    rng = np.random.default_rng(0)
    logits, ids = rng.normal(size=(2, 5, 6)).astype(np.float32), rng.integers(0, 3, (2, 5))
    loss = np.array([[0, 1, 1, 0.5, 0], [0, 1, 1, 1, 1]], np.float32)
    bad = np.zeros((2, 6), bool)
    bad[:, 4:] = True
    ids[1, 3] = 5  # the example itself says it
    penalise = jax.jit(disallowed_tokens)
    sums = penalise(logits, ids, loss, bad)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    mass = p[:, :-1, 4:].sum(-1)
    weight = loss[:, 1:] * (ids[:, 1:] < 4)
    np.testing.assert_allclose(sums["penalty"], (-np.log1p(-mass) * weight).sum(1), rtol=1e-5)
    np.testing.assert_allclose(sums["mass"], (mass * weight).sum(1), rtol=1e-5)
    np.testing.assert_allclose(sums["excepted"], [0, 1])
    certain = penalise(np.full((1, 2, 2), [90.0, -90.0], np.float32), np.ones((1, 2), int),
                                np.ones((1, 2), np.float32), np.array([[True, False]]))  # fmt: skip
    np.testing.assert_allclose(certain["penalty"], [180.0], rtol=1e-5)  # and no overflow


HOW = Restraint(kl=0.3, penalty=2.0)


@pytest.fixture(scope="module")
def personal():
    """(p -> loss, metrics and gradient by p, without and with `HOW`), and where p began: one program."""
    rng = np.random.default_rng(2)
    tree = {name: tiny.params()[name] for name in ("backbone", "lfe", "head", "hypernet")}
    frozen = {**tree, "start": rng.normal(size=(7, tiny.D_P)).astype(np.float32)}
    frozen["disallowed"] = barred(20, 21, 22)
    batch = tiny.turns(TENANTS).replace(evidence=None)
    stages = [objectives.personalize(tiny.LM, 0.0, how) for how in (Restraint(), HOW)]

    @tiny.jit
    def program(p_UE, frozen, batch):
        of = lambda stage: (
            lambda p_UE: stage.loss(
                {"profile": {"p": p_UE}}, frozen, None, batch, stage.weigh(batch), None
            )
        )
        return [jax.value_and_grad(of(stage), has_aux=True)(p_UE) for stage in stages]

    def value(p_UE):
        found = program(p_UE, frozen, batch)
        return [
            (float(total), {k: float(v) for k, v in aux.metrics.items()}, np.asarray(grad))
            for (total, aux), grad in found
        ]

    return value, frozen["start"]


def test_weight_zero_is_the_stage_without_the_term(personal):
    value, start = personal
    (plain, metrics, _), (both, with_terms, _) = value(start + 1)
    assert "kl" not in metrics and "penalty" not in metrics
    assert plain == pytest.approx(metrics["nll"], rel=1e-6)
    expected = plain + 0.3 * with_terms["kl"] + 2.0 * with_terms["penalty"]
    assert both == pytest.approx(expected, rel=1e-5)


def test_kl_is_zero_where_personalisation_began_and_grows_from_there(personal):
    value, start = personal
    here, near, far = (value(start + away)[1][1] for away in (0.0, 0.1, 1.0))
    assert here["kl"] == pytest.approx(0, abs=1e-6) and 0 < near["kl"] < far["kl"]
    assert 0 < here["penalty"] and 0 < here["mass"] < 1


def test_the_terms_pull_where_they_should(personal):
    """A step down the terms' own gradient lessens them; absent tenants feel nothing."""
    value, start = personal
    p_UE = start + 0.5
    (_, _, plain), (_, before, grad) = value(p_UE)
    own = grad - plain
    assert np.any(own, axis=1).tolist() == [True, True] + [False] * 5
    after = value(p_UE - 1e-2 * own / np.abs(own).max())[1][1]
    terms = lambda metrics: 0.3 * metrics["kl"] + 2.0 * metrics["penalty"]
    assert terms(after) < terms(before)


def test_universal_stays_near_an_earlier_head():
    tree = {**tiny.params(), "disallowed": barred(20)}
    tree["reference"] = {name: tree[name] for name in ("head", "hypernet")}
    batch = tiny.turns(TENANTS)
    plain = objectives.universal(tiny.LM, tiny.ENCODER, p_dropout=0.0)
    held = objectives.universal(
        tiny.LM, tiny.ENCODER, p_dropout=0.0, restraint=Restraint(kl=0.5, penalty=1.5)
    )

    @tiny.jit
    def both(tree, batch):
        keys, totals = jax.random.split(jax.random.key(0), B), plain.weigh(batch)
        return [o.loss(tree, {}, None, batch, totals, keys) for o in (plain, held)]

    (before, _), (same, aux) = both(tree, batch)
    assert float(aux.metrics["kl"]) == pytest.approx(0, abs=1e-6)
    assert float(same - before) == pytest.approx(1.5 * float(aux.metrics["penalty"]), rel=1e-3)
    other = {**tree, "reference": jax.tree.map(lambda x: 0.9 * x, tree["reference"])}
    assert float(both(other, batch)[1][1].metrics["kl"]) > 1e-4


@pytest.mark.slow
def test_the_universal_terms_add_up_over_microbatches():
    """To the backbone's own policy; the denominators are the whole batch's."""
    batch, tree = tiny.turns(TENANTS), {**tiny.params(), "disallowed": barred(20)}
    trained = {"hypernet": tree.pop("hypernet")}
    how = Restraint(kl=0.5, penalty=1.5)
    stage = lambda reference: objectives.universal(
        tiny.LM, tiny.ENCODER, p_dropout=0.0, restraint=how, reference=reference
    )
    objective = stage("backbone")

    seen = tiny.jit(lambda trained, tree, batch, key_B: objective.loss.encode(
        trained, tree, None, batch, key_B
    ))  # fmt: skip
    keys = jax.random.split(jax.random.key(0), B)
    whole = seen(trained, tree, batch, keys)
    two = [jax.tree.map(lambda x, i=i: x[i : i + 2], (batch, keys)) for i in (0, 2)]
    parts = [seen(trained, tree, *part) for part in two]
    joined = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), joined, whole)
    judged = tiny.jit(lambda joined, batch: objective.loss.score(
        {}, {}, None, joined, batch, objective.weigh(batch), None
    ))  # fmt: skip
    _, aux = judged(joined, batch)
    tokens = batch.answer.loss_BL[:, 1:].sum()
    for term in ("kl", "penalty"):
        mean = float(np.asarray(joined["restraint"][term]).sum()) / tokens
        assert float(aux.metrics[term]) == pytest.approx(mean, rel=1e-5) and mean > 1e-3
    with pytest.raises(ValueError, match="needs a teacher"):
        stage("teacher")


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="0 or more"):
        Restraint(kl=-1.0)
    objective = objectives.personalize(tiny.LM, 0.0, Restraint(penalty=1.0))
    batch = tiny.turns(TENANTS).replace(evidence=None)
    start = np.zeros((7, tiny.D_P), np.float32)
    tree = {**tiny.params(), "profile": {"p": start}, "start": start}
    with pytest.raises(ValueError, match="disallowed"):
        jax.eval_shape(
            lambda tree, batch: objective.loss(tree, {}, None, batch, objective.weigh(batch), None)[
                0
            ],
            tree,
            batch,
        )

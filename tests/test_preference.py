"""Losses over preferences: published values first, then what each loss must be by its definition, then TRL's own."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trl_parity

from jaxrec.losses import preference as losses
from jaxrec.losses.preference import PreferenceError, PreferenceLoss, pair_losses


def golden():
    """Log-probabilities of eight answers, policy and reference: four chosen, then four rejected."""
    np.random.seed(0)
    policy, reference = (np.random.normal(0, 5, (8, 4)).sum(1).astype(np.float32) for _ in "pr")
    return policy, reference


def of(how, policy=None, reference=None, tokens=4.0):
    own, was = golden()
    policy, reference = own if policy is None else policy, was if reference is None else reference
    given = (
        policy[:4],
        policy[4:],
        *[np.full(4, tokens, np.float32)] * 2,
        reference[:4],
        reference[4:],
    )
    return pair_losses(how, *map(jnp.asarray, given))


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        (PreferenceLoss("sigmoid", 0.1), 0.753059),
        (PreferenceLoss("sigmoid", 0.1, smoothing=0.3), 0.925447),
        (PreferenceLoss("robust", 0.1, smoothing=0.3), 0.322091),
    ],
)
def test_published_values(how, wanted):
    assert float(of(how)["loss"].mean()) == pytest.approx(wanted, abs=2e-6)


def test_at_the_reference_nothing_is_known():
    _, was = golden()
    mean = lambda kind, **more: float(of(PreferenceLoss(kind, **more), was)["loss"].mean())
    assert mean("sigmoid") == pytest.approx(math.log(2))
    assert mean("sigmoid", smoothing=0.4) == pytest.approx(math.log(2))
    assert mean("robust", smoothing=0.4) == pytest.approx(math.log(2), rel=1e-5)
    assert mean("hinge") == 1.0
    assert mean("ipo", beta=0.5) == 1.0


def test_losses_by_hand():
    """A margin of 3 nats over answers of 2 and 4 tokens."""
    given = [jnp.array([x], jnp.float32) for x in (-4.0, -6.0, 2.0, 4.0, -3.0, -2.0)]
    told = lambda *a, **k: float(pair_losses(PreferenceLoss(*a, **k), *given)["loss"][0])
    soft = lambda x: math.log1p(math.exp(x))
    assert told("sigmoid", 0.5) == pytest.approx(soft(-1.5))  # (-4 + 3) - (-6 + 2) = 3
    assert told("sigmoid", 0.5, length_normalised=True) == pytest.approx(soft(-0.5 * 0.5))
    assert told("hinge", 0.2) == pytest.approx(0.4)
    assert told("ipo", 0.5) == pytest.approx((0.5 - 1) ** 2)
    assert told("simpo", 2.0, gamma=1.0) == pytest.approx(soft(-(2 * (-2.0 + 1.5) - 1)))
    odds = [math.log(math.exp(x) / (1 - math.exp(x))) for x in (-2.0, -1.5)]
    assert told("orpo", 0.3) == pytest.approx(0.3 * soft(odds[1] - odds[0]), rel=1e-5)


def test_odds_of_a_certain_answer_stay_finite():
    at = lambda x: losses.orpo(jnp.array([x]), jnp.array([-1e-3])).sum()
    at_all = jax.jit(jax.vmap(jax.value_and_grad(at)))
    assert np.isfinite(at_all(jnp.array([0.0, -1e-9, -0.69, -0.7, -50.0]))).all()


def test_kto_by_hand():
    ratio, liked = jnp.array([2.0, 2.0, -1.0]), jnp.array([True, False, False])
    sig = lambda x: 1 / (1 + math.exp(-x))
    got = losses.kto(ratio, liked, jnp.float32(0.5), 0.2, up=1.0, down=2.0)
    wanted = [1 - sig(0.2 * 1.5), 2 * (1 - sig(-0.2 * 1.5)), 2 * (1 - sig(0.2 * 1.5))]
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    ones = jnp.ones(3)
    assert float(losses.kto_baseline(jnp.array([1.0, 2.0, 6.0]), ones)) == 3.0
    assert float(losses.kto_baseline(jnp.array([-1.0, -2.0, 1.0]), ones)) == 0.0
    assert float(losses.kto_baseline(jnp.array([1.0, 9.0, 3.0]), jnp.array([1.0, 0, 1]))) == 2.0
    slope = jax.grad(lambda r: losses.kto_baseline(r, ones))(ratio)
    assert not slope.any()


def test_robust_is_unbiased():
    """Over flipped and unflipped labels the robust loss is the loss on clean ones; the conservative one is not."""
    margin, flipped = jnp.array([1.7]), 0.2
    both = lambda f: 0.8 * f(margin, 1.0, flipped) + 0.2 * f(-margin, 1.0, flipped)
    clean = losses.sigmoid(margin, 1.0)
    np.testing.assert_allclose(both(losses.robust), clean, rtol=1e-5)
    assert float(both(losses.sigmoid)[0]) > float(clean[0]) + 0.1


def test_policy_kl():
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.normal(size=(2, 3, 5)), jnp.float32) for _ in "ab")
    loss = jnp.array([[0.0, 1, 1], [0, 0, 1]])
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (np.asarray(a), np.asarray(b)))
    kl = (p * np.log(p / q)).sum(-1)
    np.testing.assert_allclose(losses.policy_kl(a, b, loss), [kl[0, :2].sum(), kl[1, 1]], rtol=1e-5)
    assert not losses.policy_kl(a, a, loss).any()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"beta": 0.0}, "beta"),
        ({"smoothing": 0.5}, "smoothing"),
        ({"kind": "ipo", "smoothing": 0.1}, "no label smoothing"),
    ],
)
def test_bad_settings(settings, said):
    with pytest.raises(PreferenceError, match=said):
        PreferenceLoss(**settings)


def test_an_unknown_kind():
    how = PreferenceLoss()
    object.__setattr__(how, "kind", "sigmoit")  # as from a file: nobody checks its types
    with pytest.raises(PreferenceError, match="did you mean 'sigmoid'"):
        how.__post_init__()


def test_a_missing_reference_is_an_error():
    ones = jnp.ones(2)
    with pytest.raises(PreferenceError, match="reference"):
        pair_losses(PreferenceLoss(), -ones, -ones, ones, ones)
    with pytest.raises(PreferenceError, match="single answers"):
        pair_losses(PreferenceLoss("kto"), -ones, -ones, ones, ones, -ones, -ones)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("trainer", ["dpo", "orpo", "simpo", "kto"])
def test_equal_to_trl(trainer, tmp_path):
    """TRL's trainers, on the weights and the very batch that ours get; skipped where trl is not installed."""
    pytest.importorskip("trl", reason="trl is not installed: no parity with its losses")
    for kind, (theirs, ours) in getattr(trl_parity, trainer)(tmp_path).items():
        assert ours == pytest.approx(theirs, abs=1e-5), kind

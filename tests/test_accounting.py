"""Noise and epsilon are those of the closed form; clipped gradients are jax-privacy's; what is hidden of whom."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from jaxrec.config import RunError
from jaxrec.data.judgement_folds import Cards
from jaxrec.models.personal.judgement import PersonConfig
from jaxrec.models.personal.profile import ProfileFitConfig
from jaxrec.recommenders.judgement_fit import JudgementFit, PoissonEpisodes, PrivateFit
from jaxrec.recommenders.private_profiles import PrivateProfileConfig, PrivateProfiles
from jaxrec.structs import Aux
from jaxrec.training import gradients
from jaxrec.training.accounting import Budget, noise_for, spent


def exact_delta(noise: float, epsilon: float) -> float:
    """Of one release with sensitivity 1 (Balle and Wang 2018, theorem 8)."""
    a, b = 1 / (2 * noise), epsilon * noise
    return norm.cdf(a - b) - np.exp(epsilon) * norm.cdf(-a - b)


def exact_noise(epsilon: float, steps: int) -> float:
    """So many releases are one with so many times the squared signal."""
    return brentq(lambda noise: exact_delta(noise, epsilon) - 1e-3, 0.05, 50) * steps**0.5


def test_epsilon_is_that_of_the_closed_form():
    pytest.importorskip("dp_accounting")
    assert spent(exact_noise(3.0, 4), 1e-3, 1.0, 4) == pytest.approx(3.0, rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("epsilon", "steps"), [(1.0, 1), (3.0, 4)])
def test_noise_is_that_of_the_closed_form(epsilon, steps):
    pytest.importorskip("dp_accounting")
    got = noise_for(Budget(epsilon, 1e-3), 1.0, steps)
    assert got == pytest.approx(exact_noise(epsilon, steps), rel=2e-3)
    # who takes part in half of the steps alone is hidden by less noise
    assert spent(got, 1e-3, 0.5, steps) < epsilon


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: Budget(0.0), "an epsilon above 0"),
        (lambda: Budget(1.0, 1.0), "a delta between 0 and 1"),
        (lambda: noise_for(Budget(1.0), 1.5, 3), "not 1.5 in 3"),
        (lambda: spent(1.0, 1e-3, 0.5, 0), "in at least one step"),
    ],
)
def test_budgets_that_cannot_be(ask, said):
    with pytest.raises(RunError, match=said):
        ask()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:optax.global_norm")
def test_clipped_gradients_are_those_of_jax_privacy():
    clipping = pytest.importorskip("jax_privacy.clipping")
    key = jax.random.key(0)
    x, y = jax.random.normal(key, (12, 3)), jnp.arange(12.0)
    params = {"w": jnp.ones(3), "b": jnp.float32(0.5)}
    error = lambda p, x, y: jnp.sum((x @ p["w"] + p["b"] - y) ** 2)
    loss = lambda p, f, e, batch, totals, key_B: (error(p, *batch) / totals["n"], Aux({}))
    weigh = lambda batch: {"n": jnp.float32(len(batch[1]))}
    take = gradients.clipped(4.0, 0.0, 5, chunk=3).take
    got, _, aux = take(loss, weigh, params, None, None, (x, y), key)
    assert 0 < float(aux.metrics["clipped"]) < 12 / 5
    theirs = clipping.clipped_grad(error, batch_argnums=(1, 2), l2_clip_norm=4.0, normalize_by=5.0)
    for name, value in theirs(params, x, y).items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5)


# ---------------------------------------------------------------------------------------------- people, events


def people(count: int, rows: int) -> Cards:
    """People who like even items or odd ones, in turn; the last rows are padding."""
    item_US = np.broadcast_to(np.arange(8), (rows, 8)).copy()
    person_U = np.where(np.arange(rows) < count, np.arange(rows), -1)
    label_US = (item_US + person_U[:, None]) % 2
    return Cards(
        person_U, item_US, label_US, np.broadcast_to(person_U[:, None] >= 0, (rows, 8)).copy()
    )


def test_people_are_drawn_each_with_their_own_probability():
    known = people(20, 24)
    source = PoissonEpisodes(known, 0.25, 20, 6, seed=0)
    state, sizes = source.init(), []
    for step in range(300):
        batch, state = source(step, None, state)
        asked = batch["asked"].any(1) | batch["shown"].any(1)
        sizes.append(int(asked.sum()))
        assert batch["item"].shape == (20, 8)
        assert not asked[sizes[-1] :].any()  # padding stands behind the drawn
    # mean 5 and deviation 1.94 over 300 draws
    assert abs(np.mean(sizes) - 5) < 0.4 and abs(np.std(sizes) - 1.94) < 0.4
    with pytest.raises(RunError, match="people were drawn for 2 rows"):
        PoissonEpisodes(known, 1.0, 2, 6, seed=0)(0, None, source.init())


SMALL = PersonConfig(d_p=2, content=2, rank=2, width=4, queries=1, most=6, batch=8, steps=2)
ITEMS = {
    "features": np.concatenate([np.zeros((8, 2)), np.eye(2)[np.arange(8) % 2] - 0.5], 1).astype(
        np.float32
    ),
    "base": np.full((8, 2), -np.log(2), np.float32),
}


@pytest.mark.slow
def test_a_noised_p_is_its_owners_alone_and_still_changes_the_answer():
    trainer = JudgementFit(SMALL, 2, ProfileFitConfig(), PrivateFit(rate=0.5, noise=None))
    known = people(20, 24)
    params = trainer.train(ITEMS, known, seed=0)
    models = trainer.models
    profiles = PrivateProfiles(PrivateProfileConfig(clip=1.0), models)
    given = known.item_US, known.label_US, known.mask_US
    start_E = np.zeros(2, np.float32)
    fit = lambda given, noise: profiles.fit(params, ITEMS, start_E, given, noise, seed=1)
    own = fit(given, 1.0)
    log_p = lambda p_UE: np.asarray(
        models.log_p(
            params, jax.tree.map(jnp.asarray, ITEMS), jnp.asarray(p_UE), jnp.asarray(known.item_US)
        )
    )
    moved = 0.5 * np.abs(np.exp(log_p(own)) - np.exp(log_p(np.zeros_like(own)))).sum(-1).mean()
    assert moved > 1e-3 and np.isfinite(own).all()
    # somebody else's events change nothing of a person's p: not even its noise
    item, label, mask = given
    other = fit((item, np.where(np.arange(24)[:, None] == 3, 1 - label, label), mask), 1.0)
    same = np.isclose(own, other, atol=1e-6).all(1)
    assert same[[i for i in range(24) if i != 3]].all() and not same[3]
    # one event more or less moves the sum by a clip at most: the mechanism's sensitivity, after one noiseless step
    once = PrivateProfiles(PrivateProfileConfig(steps=1, clip=0.01), models)
    mask_less = mask.copy()
    mask_less[0, 0] = False
    step = lambda mask: once.fit(params, ITEMS, start_E, (item, label, mask), 0.0, 1)[0]
    rate = once.cfg.opt.lr
    assert 0 < np.linalg.norm(step(mask) - step(mask_less)) <= 0.01 * rate * (1 + 1e-4)


@pytest.mark.slow
def test_shared_weights_are_trained_with_noise_by_the_one_step():
    known = people(20, 24)
    quiet, loud = (
        JudgementFit(SMALL, 2, ProfileFitConfig(), PrivateFit(rate=0.5, noise=noise)).train(
            ITEMS, known, seed=0
        )
        for noise in (0.0, 50.0)
    )
    size = lambda tree: float(gradients.norm_of(tree))
    difference = jax.tree.map(lambda a, b: a - b, quiet, loud)
    assert size(difference) > 1e-3 and np.isfinite(size(loud))

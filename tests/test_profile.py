"""p from evidence: order and padding do not matter, amount does; and the gradient fit finds the most probable p."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.models.personal.profile import (
    Evidence,
    Gaussian,
    ProfileEncoder,
    ProfileEncoderConfig,
    ProfileFitConfig,
    centre_of,
    fit_profiles,
)

KEY = jax.random.key(0)


def evidence(people=3, pieces=6, d_z=5):
    count = jnp.array([pieces, 2, 0])[:people]
    return Evidence(
        jax.random.normal(KEY, (people, pieces, d_z)),
        jax.random.randint(KEY, (people, pieces), 0, 3),
        jax.random.uniform(KEY, (people, pieces), minval=-1),
        jnp.arange(pieces)[None, :] < count[:, None],
    )


def encoder(prior=0):
    model = ProfileEncoder(ProfileEncoderConfig(5, 4, 3, 16, 2, 4, prior))
    return model, model.init(KEY, evidence())["params"]


@pytest.mark.parametrize("prior", [0, 4])
def test_order_and_padding_change_nothing(prior):
    model, params = encoder(prior)
    given = evidence()
    p = model.apply({"params": params}, given)
    assert p.shape == (3, 4)
    turned = jax.tree.map(lambda x: x[:, ::-1], given)
    np.testing.assert_allclose(model.apply({"params": params}, turned), p, atol=1e-5)
    junk = given.replace(z_BSD=jnp.where(given.mask_BS[..., None], given.z_BSD, 1e3))
    np.testing.assert_allclose(model.apply({"params": params}, junk), p, atol=1e-5)


@pytest.mark.parametrize("prior", [0, 4])
def test_without_evidence_everyone_is_the_same_stranger(prior):
    model, params = encoder(prior)
    given = evidence().replace(mask_BS=jnp.zeros((3, 6), bool))
    p = np.asarray(model.apply({"params": params}, given))
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p, np.broadcast_to(p[:1], p.shape), atol=1e-6)


def test_centred_it_reads_what_differs_and_not_where_z_stands():
    """Z moved and stretched as a whole, with its centre set anew, is the same evidence; the centre learns nothing."""
    model = ProfileEncoder(ProfileEncoderConfig(5, 4, 3, 16, 2, 4, centred=True))
    given, far = evidence(), lambda z: 17 + 14 * z
    params = model.init(KEY, given)["params"]
    at = lambda given: params | centre_of(np.asarray(given.z_BSD[given.mask_BS]))
    moved = given.replace(z_BSD=far(given.z_BSD))
    infer = lambda params, given: model.apply({"params": params}, given)

    @jax.jit
    def told(params, given):
        return infer(params, given), jax.grad(lambda p: infer(p, given).sum())(params)

    (p, _), (far_p, grads) = (told(at(x), x) for x in (given, moved))
    np.testing.assert_allclose(far_p, p, atol=1e-4)
    assert not grads["z_mean"].any() and not grads["z_spread"].any()
    assert np.abs(grads["into"]["kernel"]).max() > 0
    seen = np.asarray(moved.z_BSD[moved.mask_BS])
    np.testing.assert_allclose(at(moved)["z_mean"], seen.mean(0), rtol=1e-5)
    alike = centre_of(np.ones((3, 5), np.float32))
    assert alike["z_spread"][0] > 0  # and no division by zero


@pytest.mark.parametrize("field", ["z_BSD", "kind_BS", "label_BS"])
def test_every_part_of_the_evidence_counts(field):
    model, params = encoder()
    given = evidence()
    other = given.replace(**{field: getattr(given, field)[::-1]})
    apart = model.apply({"params": params}, given) - model.apply({"params": params}, other)
    assert np.abs(apart[0]).max() > 1e-4


def test_the_prior_keeps_little_evidence_near_the_stranger():
    """Repeating one piece says nothing new without a prior, and says it more surely with one."""
    given = evidence(1)
    once = jnp.arange(6)[None, :] < 1
    same = jax.tree.map(lambda x: jnp.broadcast_to(x[:, :1], x.shape), given)
    one, six = same.replace(mask_BS=once), same.replace(mask_BS=jnp.ones((1, 6), bool))
    none = same.replace(mask_BS=jnp.zeros((1, 6), bool))
    for prior in (0, 4):
        model, params = encoder(prior)
        p_one, p_six, stranger = (model.apply({"params": params}, e) for e in (one, six, none))
        moved = [float(jnp.linalg.norm(p - stranger)) for p in (p_one, p_six)]
        if prior:
            assert moved[1] > 1.3 * moved[0]
        else:
            np.testing.assert_allclose(p_one, p_six, atol=1e-5)


def quadratic(p_E, own):
    """-log likelihood of points that scatter around p with spread 1."""
    x_SE, mask_S = own
    return 0.5 * jnp.sum(((x_SE - p_E[None]) ** 2).sum(-1) * mask_S)


def test_the_fit_finds_the_most_probable_p():
    """Normal prior and normal likelihood: the answer is known."""
    x = 2 + jax.random.normal(KEY, (4, 9, 3))
    mask = jnp.arange(9)[None, :] < jnp.array([0, 1, 4, 9])[:, None]
    prior = Gaussian(jnp.array([[0.5, -1.0, 0.0]]), jnp.array([0.3, 1.0, 2.0]))
    start = jnp.broadcast_to(prior.mean_UE, (4, 3))
    found = fit_profiles(quadratic, start, (x, mask), prior, ProfileFitConfig(steps=400, lr=0.1))
    precision = 1 / prior.std_E**2
    total = (x * mask[..., None]).sum(1) + (precision * prior.mean_UE[0])[None]
    np.testing.assert_allclose(found, total / (mask.sum(1)[:, None] + precision[None]), atol=1e-3)
    np.testing.assert_array_equal(found[0], start[0])  # nothing to learn from: it stays


def test_people_fitted_together_equal_people_fitted_alone():
    x, mask = jax.random.normal(KEY, (3, 5, 2)), jnp.ones((3, 5), bool)
    start = jax.random.normal(KEY, (3, 2))
    prior = Gaussian(start, jnp.ones(2))
    together = fit_profiles(quadratic, start, (x, mask), prior)
    for u in range(3):
        alone = fit_profiles(
            quadratic,
            start[u : u + 1],
            (x[u : u + 1], mask[u : u + 1]),
            Gaussian(start[u : u + 1], jnp.ones(2)),
        )
        np.testing.assert_allclose(alone[0], together[u], atol=1e-5)


def test_a_small_spread_holds_p_back():
    x, mask = jnp.full((1, 5, 2), 3.0), jnp.ones((1, 5), bool)
    start = jnp.zeros((1, 2))
    moved = [
        float(jnp.abs(fit_profiles(quadratic, start, (x, mask), Gaussian(start, jnp.ones(2)),
                                   ProfileFitConfig(200, spread=spread))).max())
        for spread in (0.1, 1.0)
    ]  # fmt: skip
    assert moved[0] < 0.3 < 1.5 < moved[1]


def test_spread_over_people_has_a_floor():
    known = Gaussian.of(jnp.array([[1.0, 2.0], [1.0, 4.0]]))
    np.testing.assert_allclose(known.mean_UE, [[1.0, 3.0]])
    np.testing.assert_allclose(known.std_E, [0.01, 1.0])

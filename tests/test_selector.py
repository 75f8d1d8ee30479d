"""The selector: each way in for p works, and what must not matter does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.models.personal.selector import ENTRANCES, Selector, SelectorConfig

KEY = jax.random.key(0)


def made(**changes):
    cfg = SelectorConfig(**{"d_z": 6, "d_p": 4, "actions": 3, "width": 8, "rank": 2, **changes})
    selector = Selector(cfg)
    z, p = jax.random.normal(KEY, (5, 7, 6)), jax.random.normal(jax.random.key(1), (5, 4))
    p = p if cfg.p_enters else None
    params = selector.init(KEY, z, p)["params"]
    # weights that begin small are made large, so that a lost term shows
    params = jax.tree.map(lambda w: w + 0.3 * jax.random.normal(KEY, w.shape), params)
    return selector, params, z, p


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_each_entrance_lets_p_in(entrance):
    selector, params, z, p = made(p_enters=(entrance,))
    own = selector.apply({"params": params}, z, p)
    other = selector.apply({"params": params}, z, p[::-1])
    assert own.shape == (5, 7, 3)
    assert np.abs(own - other)[[0, 1, 3, 4]].max() > 1e-2
    np.testing.assert_allclose(own[2], other[2], atol=1e-5)  # the middle row kept its p


def test_many_texts_of_a_person_equal_one_by_one():
    selector, params, z, p = made()
    together = selector.apply({"params": params}, z, p)
    for q in range(7):
        np.testing.assert_allclose(
            selector.apply({"params": params}, z[:, q], p), together[:, q], atol=1e-5
        )


def test_a_leaning_moves_all_texts_alike_and_a_bilinear_term_does_not():
    for entrance, same in (("add", True), ("bilinear", False)):
        selector, params, z, p = made(p_enters=(entrance,), width=0)
        apart = selector.apply({"params": params}, z, p) - selector.apply(
            {"params": params}, z, 0 * p
        )
        assert bool(np.ptp(np.asarray(apart), axis=1).max() < 1e-4) == same


def test_base_is_added_as_it_is_at_first():
    selector, _, z, p = made()
    base = jax.random.normal(KEY, (5, 7, 3))
    params = selector.init(KEY, z, p, base=base)["params"]
    without = {name: w for name, w in params.items() if name != "trust"}
    apart = selector.apply({"params": params}, z, p, base=base) - selector.apply(
        {"params": without}, z, p
    )
    np.testing.assert_allclose(apart, base, atol=1e-5)


def test_padding_of_tokens_changes_nothing():
    cfg = SelectorConfig(6, 4, 3, 8, 2, tokens=True)
    tokens = jax.random.normal(KEY, (5, 4, 9))
    mask = jnp.arange(4)[None, :] < jnp.array([4, 3, 2, 1, 4])[:, None]
    z, p = jax.random.normal(KEY, (5, 6)), jax.random.normal(KEY, (5, 4))
    params = Selector(cfg).init(KEY, z, p, None, tokens, mask)["params"]
    out = Selector(cfg).apply({"params": params}, z, p, None, tokens, mask)
    junk = jnp.where(mask[..., None], tokens, 1e3)
    np.testing.assert_allclose(
        Selector(cfg).apply({"params": params}, z, p, None, junk, mask), out, atol=1e-5
    )
    with pytest.raises(ValueError, match="reads tokens"):
        Selector(cfg).apply({"params": params}, z, p)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="can't enter by 'filn'"):
        SelectorConfig(p_enters=("filn",))
    with pytest.raises(ValueError, match="width 0"):
        SelectorConfig(width=0)
    selector, params, z, _ = made()
    with pytest.raises(ValueError, match="p is None"):
        selector.apply({"params": params}, z)

"""Sampling: each setting does what it says, the cut to the top 128 changes nothing, and rows are on their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn import sampling as module
from jaxrec.nn.sampling import choose, penalise, sampling

choose_jit = jax.jit(choose)


def _draws(logits_V, n: int, **how) -> np.ndarray:
    """n draws from one row's scores, by n numbers of the token."""
    rows = jnp.broadcast_to(logits_V, (n, logits_V.shape[-1]))
    return np.asarray(choose_jit(rows, sampling(n, seed=[5] * n, **how), jnp.arange(n)))


def _kept(logits: np.ndarray, top_k: int, top_p: float) -> set[int]:
    """What HF's order of filters keeps: top-k, then the shortest head with mass of at least p."""
    order = np.argsort(-logits)[: top_k or None]
    p = np.exp(logits[order] - logits[order].max())
    p /= p.sum()
    return set(order[np.cumsum(p) - p < top_p].tolist())


@pytest.mark.parametrize(
    ("top_k", "top_p"),
    [
        (0, 1.0),
        (5, 1.0),
        (0, 0.5),
        (0, 0.95),
        (7, 0.6),
        (200, 0.9),
        (200, 1.0),
        (1, 1.0),
        (0, 1e-4),
    ],
)
def test_draws_follow_the_filtered_distribution(top_k, top_p):
    """Flat scores over 300 tokens put less than 0.95 in the top 128, so several of these need the exact path."""
    logits = np.asarray(0.5 * jax.random.normal(jax.random.key(0), (300,)))
    n = 4096
    drawn = _draws(jnp.array(logits), n, temperature=0.8, top_k=top_k, top_p=top_p)
    kept = sorted(_kept(logits / 0.8, top_k, top_p))
    assert set(drawn.tolist()) <= set(kept)
    p = np.exp(logits[kept] / 0.8)
    counts = np.bincount(drawn, minlength=300)[kept]
    chi2 = ((counts - n * p / p.sum()) ** 2 / (n * p / p.sum())).sum()
    free = max(len(kept) - 1, 1)
    assert chi2 < free + 5 * (2 * free) ** 0.5


def test_the_exact_path_draws_what_the_cut_draws(monkeypatch):
    """Where 128 suffice, a cut so small that it never does gives the same tokens."""
    logits = 2 * jax.random.normal(jax.random.key(1), (64, 300))
    how = sampling(64, temperature=1.0, top_k=20, top_p=0.9)
    cut = jax.jit(lambda x: choose(x, how, jnp.arange(64)))(logits)
    monkeypatch.setattr(module, "TOP", 2)
    exact = jax.jit(lambda x: choose(x, how, jnp.arange(64)))(logits)
    np.testing.assert_array_equal(exact, cut)


def test_a_row_does_not_depend_on_its_batch():
    """Not even when another row forces the exact path."""
    logits = jax.random.normal(jax.random.key(2), (4, 300))
    each = {
        "temperature": [1.0, 0.0, 0.7, 1.3], "top_k": [0, 0, 9, 0], "top_p": [1.0, 1.0, 1.0, 0.99],
        "seed": [3, 3, 8, 9],
    }  # fmt: skip
    together = choose_jit(logits, sampling(4, **each), jnp.arange(4))
    for i in range(4):
        one = sampling(1, **{k: [v[i]] for k, v in each.items()})
        assert choose_jit(logits[i : i + 1], one, jnp.array([i]))[0] == together[i]
    assert together[1] == logits[1].argmax()


def test_seeds_and_numbers_of_tokens_change_the_draw():
    logits = jnp.zeros((1, 300))
    draw = lambda seed, n: int(
        choose_jit(logits, sampling(1, temperature=1.0, seed=[seed]), jnp.array([n]))[0]
    )
    assert draw(1, 0) == draw(1, 0)
    assert len({draw(s, n) for s in range(5) for n in range(5)}) > 20


def test_repetition_penalty_is_that_of_transformers():
    torch = pytest.importorskip("torch")
    from transformers import RepetitionPenaltyLogitsProcessor

    logits = np.asarray(jax.random.normal(jax.random.key(3), (2, 20)))
    ids = np.array([[1, 4, 4], [0, 2, 19]])
    seen = np.zeros((2, 20), bool)
    np.put_along_axis(seen, ids, True, 1)
    theirs = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor(ids), torch.tensor(logits))
    np.testing.assert_allclose(
        penalise(jnp.array(logits), jnp.array(seen), jnp.full(2, 1.7)), theirs.numpy(), rtol=1e-6
    )
    np.testing.assert_array_equal(penalise(jnp.array(logits), jnp.array(seen), jnp.ones(2)), logits)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"top_p=1\.5 must lie between"):
        sampling(2, top_p=1.5)
    with pytest.raises(ValueError, match="temperature has 3 values for 2 rows"):
        sampling(2, temperature=[1.0, 1.0, 1.0])

"""Losses against what is known by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.losses.labels import cross_entropy
from jaxrec.losses.ranking import info_nce
from jaxrec.losses.tokens import distil, next_token, sequence_logprob


def test_next_token_of_uniform_logits_is_log_v():
    ids_BL = jnp.array([[1, 2, 3, 0], [1, 4, 0, 0]])
    weight_BL = jnp.array([[0, 1, 1, 0], [0, 0.5, 0, 0.0]])
    out = next_token(jnp.zeros((2, 4, 7)), ids_BL, weight_BL)
    assert out["tokens"] == pytest.approx(2.5)
    assert out["nll"] == pytest.approx(2.5 * np.log(7), rel=1e-6)


def test_next_token_agrees_with_sequence_logprob_and_shifts():
    logits = jax.random.normal(jax.random.key(0), (2, 5, 7))
    ids = jax.random.randint(jax.random.key(1), (2, 5), 0, 7)
    weight = jnp.ones((2, 5))
    out = next_token(logits, ids, weight)
    assert out["nll"] == pytest.approx(
        -float(sequence_logprob(logits, ids, weight).sum()), rel=1e-5
    )
    by_hand = sum(
        -jax.nn.log_softmax(logits[b, t])[ids[b, t + 1]] for b in range(2) for t in range(4)
    )
    assert out["nll"] == pytest.approx(float(by_hand), rel=1e-5)


def test_distil_is_zero_at_the_teacher_and_positive_elsewhere():
    teacher = jax.random.normal(jax.random.key(0), (2, 5, 7))
    weight = jnp.ones((2, 5))
    assert distil(teacher + 3.0, teacher, weight) == pytest.approx(0.0, abs=1e-5)
    assert distil(jnp.zeros_like(teacher), teacher, weight) > 0.1


def test_info_nce_of_identical_rows_is_log_b():
    a_BD = jnp.ones((6, 4))
    out = info_nce(a_BD, a_BD)
    assert out["nce"] / 6 == pytest.approx(np.log(6), rel=1e-5)


def test_info_nce_falls_when_partners_are_near_and_ignores_marked_pairs():
    a_BD = jnp.eye(4)
    near = info_nce(a_BD, a_BD)
    assert near["nce"] < 1e-3
    assert near["hits"] == 4
    twins = jnp.concatenate([a_BD[:2], a_BD[:2]])  # rows 0 and 2 mean the same, 1 and 3 too
    same_BB = jnp.tile(jnp.eye(2, dtype=bool), (2, 2))
    assert info_nce(twins, twins)["nce"] > 1.0
    assert info_nce(twins, twins, same_BB=same_BB)["nce"] < 1e-3


def test_cross_entropy_leaves_unlabelled_rows_out():
    logits = jnp.zeros((3, 4))
    out = cross_entropy(logits, jnp.array([0, -1, 2]), jnp.ones(3))
    assert out["rows"] == 2
    assert out["nll"] == pytest.approx(2 * np.log(4), rel=1e-6)
    assert out["correct"] == 1

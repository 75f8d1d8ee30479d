"""Tables by row: equal to dense Adam on present rows, and nothing at all on absent ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import tables

TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(12, 4)), jnp.float32)
HOW = tables.RowAdam(ids=lambda batch: batch, rate=0.1)


def rows(ids):
    ids = tables.distinct(jnp.asarray(ids), len(TABLE))
    return tables.Rows(tables.gather(TABLE, ids), ids)


def test_distinct_ascends_and_fills_with_numbers_beyond_the_table():
    got = tables.distinct(jnp.asarray([[5, 2], [5, -1]]), 12)
    np.testing.assert_array_equal(got[:2], [2, 5])
    assert (got[2:] >= 12).all() and len(np.unique(got)) == 4


def test_gathered_rows_read_like_the_table():
    ids = jnp.asarray([[7, 0, 7], [-1, 11, 3]])
    np.testing.assert_array_equal(tables.lookup(rows(ids), ids), tables.lookup(TABLE, ids))
    np.testing.assert_array_equal(tables.lookup(TABLE, ids)[1, 0], 0)


def test_an_id_that_is_not_there_gives_nan_rather_than_zero():
    assert jnp.isnan(tables.lookup(rows([1, 2]), jnp.asarray([3]))).all()
    assert jnp.isnan(tables.lookup(TABLE, jnp.asarray([12]))).all()


@pytest.mark.parametrize("whole", [True, False])
def test_nobody_gets_no_gradient(whole):
    ids = jnp.asarray([3, -1])
    table = TABLE if whole else rows(ids)
    value = lambda v: tables.lookup(v if whole else table.replace(values_IE=v), ids).sum()
    grad = jax.grad(value)(TABLE if whole else table.values_IE)
    np.testing.assert_array_equal(grad.sum(), TABLE.shape[1])


def train(ids_by_step, target=1.0):
    table, state = TABLE, tables.init(TABLE)

    @jax.jit
    def step(table, state, ids):
        some = tables.distinct(ids, len(TABLE))
        loss = lambda values: ((tables.lookup(tables.Rows(values, some), ids) - target) ** 2).sum()
        return tables.update(
            HOW, table, state, some, jax.grad(loss)(tables.gather(table, some)), 0.0
        )

    for ids in ids_by_step:
        table, state = step(table, state, jnp.asarray(ids))
    return table, state


def test_with_every_row_present_it_is_dense_adam():
    got, _ = train([np.arange(12)] * 10)
    adam, table = optax.adam(0.1), TABLE
    state = adam.init(table)
    for _ in range(10):
        updates, state = adam.update(jax.grad(lambda t: ((t - 1.0) ** 2).sum())(table), state)
        table = optax.apply_updates(table, updates)
    np.testing.assert_allclose(got, table, atol=1e-6)


def test_an_absent_row_does_not_move_although_it_once_had_momentum():
    before, _ = train([[0, 1], [0, 1]])
    after, state = train([[0, 1], [0, 1]] + [[2, 3, 3]] * 5)
    np.testing.assert_array_equal(after[:2], before[:2])
    np.testing.assert_array_equal(after[4:], TABLE[4:])
    assert not np.allclose(after[2:4], TABLE[2:4])
    np.testing.assert_array_equal(state.seen, [2, 2, 5, 5] + [0] * 8)


def test_a_person_twice_in_a_batch_gets_both_gradients_and_one_update():
    once, state = train([[4]])
    twice, state2 = train([[4, 4]])
    assert int(state2.seen[4]) == int(state.seen[4]) == 1
    np.testing.assert_allclose(state2.mu[4], 2 * state.mu[4], rtol=1e-6)
    np.testing.assert_array_equal(twice[5:], once[5:])


def test_the_update_is_done_in_place():
    """With a donated table nothing of the table's size is made: memory is that of the batch."""
    big = jax.ShapeDtypeStruct((100_000, 16), jnp.float32)
    state = jax.eval_shape(tables.init, big)
    step = lambda t, s, ids, g: tables.update(HOW, t, s, tables.distinct(ids, t.shape[0]), g, 0.0)
    ids, grad = jax.ShapeDtypeStruct((32,), jnp.int32), jax.ShapeDtypeStruct((32, 16), jnp.float32)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(big, state, ids, grad).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 100_000

"""Sources: a permutation that is never stored, batches that depend on the state alone."""

import numpy as np
import pytest

from jaxrec.data.source import ArraySource, Permutation, Prefetch
from jaxrec.structs import Tokens


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 4097])
def test_a_permutation_holds_every_index_once(size):
    image = Permutation(size, 1, 2)(np.arange(size))
    np.testing.assert_array_equal(np.sort(image), np.arange(size))


def test_permutations_differ_by_key_and_look_random():
    index = np.arange(10_000)
    first, other = Permutation(10_000, 0, 0)(index), Permutation(10_000, 0, 1)(index)
    assert (first != other).mean() > 0.99
    # Of a random permutation: no correlation with the order, and about one fixed point.
    assert abs(np.corrcoef(index, first)[0, 1]) < 0.05
    assert (first == index).sum() < 8


def test_a_part_of_a_huge_permutation_needs_no_table():
    size = 10**12
    image = Permutation(size, 5)(np.arange(1000) + size // 2)
    assert len(np.unique(image)) == 1000
    assert image.min() >= 0 and image.max() < size


def source(rows=8, **options):
    return ArraySource({"i": np.arange(30), "x": np.arange(60).reshape(30, 2)}, rows, **options)


def drawn(source, count, state=None):
    state, batches = state or source.init(), []
    for step in range(count):
        batch, state = source(step, None, state)
        batches.append(batch)
    return np.concatenate([b["i"] for b in batches]), state


def test_every_epoch_holds_every_example_once_and_in_another_order():
    seen, state = drawn(
        source(rows=8), 15
    )  # 120 rows = 4 epochs, with batches across their borders
    epochs = seen.reshape(4, 30)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(30), (4, 1)))
    assert not np.array_equal(epochs[0], epochs[1])
    assert (int(state["epoch"]), int(state["position"])) == (4, 0)


def test_the_same_state_gives_the_same_batches():
    whole, _ = drawn(source(), 10)
    first, state = drawn(source(), 4)
    rest, _ = drawn(source(), 6, state)  # a new source, as after a restart
    np.testing.assert_array_equal(whole, np.concatenate([first, rest]))


def test_processes_share_the_batch_of_one():
    whole, _ = drawn(source(), 5)
    parts = [drawn(source(share=share), 5)[0].reshape(5, 4) for share in (slice(0, 4), slice(4, 8))]
    np.testing.assert_array_equal(whole.reshape(5, 8), np.concatenate(parts, axis=1))


def test_a_batch_may_be_larger_than_the_data():
    seen, state = drawn(source(rows=70), 1)
    np.testing.assert_array_equal(np.bincount(seen[:60]), np.full(30, 2))
    assert (int(state["epoch"]), int(state["position"])) == (2, 10)


def test_any_tree_and_any_order():
    tokens = Tokens(ids_BL=np.arange(12).reshape(4, 3), mask_BL=np.ones((4, 3), bool))
    plain = ArraySource(
        tokens, 2, shuffle=False, make=lambda batch: batch.replace(loss_BL=batch.mask_BL * 1.0)
    )
    batch, _ = plain(0, None, plain.init())
    np.testing.assert_array_equal(batch.ids_BL, [[0, 1, 2], [3, 4, 5]])
    assert batch.loss_BL.dtype == float


@pytest.mark.parametrize("arrays", [{"a": np.ones(3), "b": np.ones(4)}, {"a": np.ones(0)}])
def test_arrays_of_other_lengths_or_none_are_refused(arrays):
    with pytest.raises(ValueError, match="equally long and not empty"):
        ArraySource(arrays, 2)


def test_prefetch_gives_what_the_source_gives_after_a_jump_too():
    whole, _ = drawn(source(), 10)
    ahead = Prefetch(source())
    first, state = drawn(ahead, 4)
    again, _ = drawn(ahead, 4)  # back to the start: what was made ahead is dropped
    rest, _ = drawn(ahead, 6, state)
    np.testing.assert_array_equal(whole, np.concatenate([first, rest]))
    np.testing.assert_array_equal(first, again)

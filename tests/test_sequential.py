"""Sequence models: packed equals alone, nobody sees what comes later, and a planted order is found and kept."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import checkpoint, ranking
from jaxrec.data.histories import Histories, Holdout, from_lists, leave_one_out
from jaxrec.data.history_rows import pack, pack_whole
from jaxrec.models.items.gru import GRU, GRUConfig
from jaxrec.models.items.hstu import HSTU, HSTUConfig, time_bucket
from jaxrec.models.items.sequential import SASRec, SASRecConfig
from jaxrec.objectives.sequential import SequentialLoss, sequential
from jaxrec.recommenders import vector_ranks
from jaxrec.recommenders.recommender import NotFitted, NothingToLearn
from jaxrec.recommenders.sequential import Sequential, SequentialConfig
from jaxrec.training.gradients import example_keys, summed
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

ITEMS, LENGTH = 20, 6
SMALL = {"items": ITEMS, "d_model": 8, "max_length": LENGTH}
MODELS = {
    "post": SASRec(SASRecConfig(**SMALL, d_ff=16)),
    "pre": SASRec(SASRecConfig(**SMALL, d_ff=8, form="pre", count="start", temperature=0.1)),
    "hstu": HSTU(HSTUConfig(**SMALL, heads=2, head_dim=4)),
    "gru": GRU(GRUConfig(**SMALL, d_hidden=8)),
}


def people(lengths=(5, 1, 3, 8, 2, 6)) -> Histories:
    rng = np.random.default_rng(0)
    rows = from_lists([rng.integers(0, ITEMS, n).tolist() for n in lengths], ITEMS)
    return dataclasses.replace(rows, time_T=rng.integers(0, 10**6, len(rows.item_T)).cumsum())


@pytest.mark.parametrize("name", MODELS)
def test_packed_is_alone_and_later_items_are_not_seen(name):
    model, whole = MODELS[name], people()
    count = model.cfg.count
    rows, last_B = pack_whole(whole, 12, LENGTH, count=count)
    params = jax.jit(model.init)(jax.random.key(0), rows)
    encode = jax.jit(model.apply)
    z_BLD = np.asarray(encode(params, rows))
    alone = jax.tree.map(lambda leaf: np.zeros((len(whole), *leaf.shape[1:]), leaf.dtype), rows)
    places = []
    for b in range(len(whole)):  # each in a row of its own, right-aligned
        one, last = pack_whole(whole.take(np.array([b])), LENGTH, LENGTH, count=count)
        shift = 12 - 1 - int(last[0])
        for into, leaf in zip(jax.tree.leaves(alone), jax.tree.leaves(one), strict=True):
            into[b, shift:] = leaf[0, : 12 - shift]
        places.append(11)
    found_BD = np.asarray(encode(params, alone))[np.arange(len(whole)), places]
    np.testing.assert_allclose(found_BD, z_BLD.reshape(-1, 8)[last_B], atol=2e-5)
    changed = rows.items_BL.copy()
    changed.reshape(-1)[last_B] = (changed.reshape(-1)[last_B] + 1) % ITEMS
    again_BLD = np.asarray(encode(params, rows.replace(items_BL=changed)))
    moved = np.abs(again_BLD - z_BLD).max(-1).reshape(-1) > 1e-6
    assert set(np.flatnonzero(moved)) == set(last_B)


def test_times_fall_into_logarithmic_buckets():
    times = np.array([[100, 101, 100 + 60, 100 + 86_400]], np.uint32)
    bucket = np.asarray(time_bucket(jnp.asarray(times)))[0]
    assert bucket[1, 0] == 0 and bucket[2, 0] == int(np.log(60) / 0.301)
    assert bucket[3, 0] == int(np.log(86_400) / 0.301)


@pytest.mark.parametrize("kind", ["full", "bce"])
def test_microbatches_add_up_with_dropout(kind):
    whole = people((6,) * 8)
    rows = pack(whole, LENGTH, LENGTH)
    if kind == "bce":
        rows = rows.replace(negatives_BLJ=np.ones((*rows.items_BL.shape, 1), np.int32))
    rows, model = jax.tree.map(jnp.asarray, rows), MODELS["post"]
    params = jax.jit(model.init)(jax.random.key(0), rows)["params"]
    objective = sequential(model, SequentialLoss(kind, chunk=16))
    take = lambda accum: jax.jit(
        lambda p: summed(accum).take(
            objective.loss, objective.weigh, p, None, None, rows, jax.random.key(1)
        )
    )
    (one, value, _), (four, other, _) = take(1)(params), take(4)(params)
    np.testing.assert_allclose(value, other, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    keys = example_keys(jax.random.key(2), 8)
    again = jax.jit(lambda p: objective.loss(p, None, None, rows, objective.weigh(rows), keys)[0])
    dry = again(params)
    assert abs(dry - value) > 1e-4  # other keys drop other things


def test_ranks_by_vectors_are_the_ranks_of_scores():
    rng = np.random.default_rng(0)
    whole = people((5, 3, 8, 6, 4) * 3)
    split = leave_one_out(whole)
    z_BD = rng.integers(-1, 2, (len(split.test), 2)).astype(np.float32)  # ties abound
    v_ID = rng.integers(-1, 2, (ITEMS, 2)).astype(np.float32)
    # Every third target is a repeat.
    target_B = split.test.target_B.copy()
    target_B[::3] = split.test.histories.item_T[split.test.histories.start_B[:-1]][::3]
    split = dataclasses.replace(split, test=Holdout(split.test.histories, target_B))
    held = ranking.seen_items(split.test.histories)
    for mask, seen in ((True, held), (False, None)):
        wanted = ranking.ranks(z_BD @ v_ID.T, split.test.target_B, seen)
        np.testing.assert_array_equal(vector_ranks.ranks(z_BD, v_ID, split.test, mask), wanted)
    z_BD[0] = np.nan
    assert vector_ranks.ranks(z_BD, v_ID, split.test, False)[0] == ITEMS


def cycle(count: int = 96) -> Histories:
    """Everybody goes round the same circle of items, each from a place of their own."""
    rng = np.random.default_rng(1)
    order = rng.permutation(ITEMS)
    rows = [
        order[(np.arange(rng.integers(5, 9)) + rng.integers(ITEMS)) % ITEMS] for _ in range(count)
    ]
    return from_lists([row.tolist() for row in rows], ITEMS)


CONFIG = SequentialConfig(
    model=SASRecConfig(d_model=16, d_ff=32, max_length=8, dropout=0.1, attention_dropout=0.1),
    loss=SequentialLoss("full", chunk=64),
    width=8,
    positions=256,
    epochs=20,
    valid_every=5,
    opt=OptConfig(lr=1e-2, schedule="constant", b2=0.999, clip=0.0),
    loop=LoopConfig(monitor="N@10", mode="max", patience=3, progress=False, save_every=0),
)


def test_a_planted_order_is_learned_saved_and_asked(tmp_path):
    split = leave_one_out(cycle())
    fitted = Sequential(CONFIG).fit(split.train, split.valid, tmp_path / "fit")
    found = ranking.measures(fitted.ranks(split.test))
    assert found["R@5"] > 0.95, found
    assert 0 < fitted.facts["epoch"] <= fitted.facts["epochs"] <= 20
    again = Sequential(CONFIG).fit(
        split.train, split.valid, tmp_path / "fit"
    )  # nothing is left to do
    np.testing.assert_array_equal(again.item_vectors(), fitted.item_vectors())
    fitted.save(tmp_path / "model")
    loaded = Sequential.load(tmp_path / "model")
    assert dataclasses.replace(loaded.config, loop=CONFIG.loop) == CONFIG
    few = split.test.histories.take(np.arange(7))
    np.testing.assert_allclose(loaded.score(few), fitted.score(few), rtol=1e-6)
    lists = loaded.recommend(few, 3)
    assert (lists.items_BJ[:, 0] == split.test.target_B[:7]).mean() > 0.8
    assert not any(set(row) & set(few[b]) for b, row in enumerate(lists.items_BJ))
    assert not loaded.encode(from_lists([[], [1]], ITEMS))[0].any()


def test_mistakes_are_said_in_a_line(tmp_path):
    with pytest.raises(NotFitted):
        Sequential(CONFIG).score(people())
    with pytest.raises(NothingToLearn, match="two events"):
        Sequential(CONFIG).fit(from_lists([[1], [2]], ITEMS))
    with pytest.raises(ValueError, match="does not divide into 3 heads"):
        SASRecConfig(heads=3)
    checkpoint.save_params(tmp_path / "other", {"x": np.zeros(1)}, {"kind": "popularity"})
    with pytest.raises(checkpoint.CheckpointError, match="no sequence model"):
        Sequential.load(tmp_path / "other")

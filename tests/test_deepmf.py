"""DeepMF: row-lazy = dense Adam, sharded = whole, planted ratings recovered, fold-in, files, bad input."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import checkpoint, mesh, objectives
from jaxrec.data.histories import Histories, Interactions, histories
from jaxrec.mesh import MeshConfig
from jaxrec.models.items import deepmf as model
from jaxrec.models.items.deepmf import DeepMFError, DeepMFShape, Ratings, SideFacts
from jaxrec.objectives import RatingDecay
from jaxrec.recommenders.deepmf import DeepMF, DeepMFConfig
from jaxrec.recommenders.deepmf_fit import FitConfig
from jaxrec.recommenders.rating_context import RatingContext
from jaxrec.recommenders.recommender import NotFitted
from jaxrec.recommenders.side_features import SideFeatures
from jaxrec.training import optimizer, step
from jaxrec.training.optimizer import OptConfig

U, ITEMS = 48, 32
SMALL = DeepMFShape(width=8, hidden=(8, 4))
FULL = DeepMFShape(
    width=6, hidden=(8,), biases=True, dot=True, features=True, implicit="both", output="linear",
    user_windows=(0.0, 50.0), dropout=0.1,
)  # fmt: skip
OPT = OptConfig(lr=1e-2, schedule="constant", b2=0.999, clip=0.0)


def planted(seed: int = 0, people: int = U) -> tuple[Interactions, np.ndarray]:
    """Half of all pairs rated by mean + biases + two factors, and the whole matrix."""
    rng = np.random.default_rng(seed)
    p, q = rng.normal(0, 1, (people, 2)), np.random.default_rng(7).normal(0, 0.7, (ITEMS, 2))
    truth = 3 + 0.3 * rng.normal(size=(people, 1)) + 0.3 * q[:, :1].T + p @ q.T
    truth = np.clip(truth, 1, 5)
    user, item = np.nonzero(rng.random((people, ITEMS)) < 0.5)
    names = lambda n: tuple(map(str, range(n)))
    rating = truth[user, item].astype(np.float32)
    return Interactions(
        user, item, names(people), names(ITEMS), rating, np.arange(len(user))
    ), truth


def batch(size: int = 32, shape: DeepMFShape = SMALL) -> Ratings:
    rng = np.random.default_rng(1)
    context = rng.normal(size=(size, shape.context)).astype(np.float32) if shape.context else None
    ids = lambda n: rng.integers(0, n, size).astype(np.int32)
    return Ratings(ids(U), ids(ITEMS), rng.uniform(1, 5, size).astype(np.float32), context)


def known() -> SideFacts:
    rng = np.random.default_rng(2)
    taken = (rng.random((U, ITEMS)) < 0.3).astype(np.uint8)
    ids = lambda n: rng.integers(-1, 5, (n, 3)).astype(np.int32)
    return SideFacts(ids(U), ids(ITEMS), taken, taken.T.copy())


@partial(jax.jit, static_argnums=0)
def begun(shape: DeepMFShape):
    """First parameters; one program, where flax by itself would compile an operation at a time."""
    return model.init(jax.random.key(0), shape, U, ITEMS, mean=3.0, user_values=5, item_values=5)


@cache
def program(shape, devices, tables, updates):
    """The mesh, a function that makes a first state, and the step: compiled once for all tests."""
    on = mesh.make(MeshConfig(data=1, fsdp=-1), jax.devices()[:devices])
    optim = optimizer.make(OPT, 100)
    how = objectives.deepmf_tables() if tables else None
    start = lambda: step.init_state(on, begun(shape), optim, tables=how)
    objective = objectives.deepmf(shape, RatingDecay(0.1, 0.01, 0.1))
    return on, start, step.make_step(*objective, optim, start(), tables=how, updates=updates)


def trained(shape, batches, devices, tables=True, updates=1, frozen=None):
    """Parameters after the batches on the first so many devices, tables cut by row over them."""
    on, start, one = program(shape, devices, tables, updates)
    state, frozen = start(), mesh.place(on, frozen)
    key = jax.device_put(jax.random.key(5), mesh.replicated(on))
    for part in batches:
        rows = len(part.item_B)
        state, metrics = one(state, frozen, mesh.place_batch(on, part, rows), key)
    assert np.isfinite(list(metrics.fetch().values())).all()
    return state.params


def assert_close(got, wanted, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, wanted)


def test_the_default_is_the_specified_model():
    shape = DeepMFShape()
    params = jax.jit(lambda key: model.init(key, shape, 5, 7))(jax.random.key(0))
    sizes = jax.tree.map(np.shape, params)
    assert sizes["users"]["table"] == (5, 64) and sizes["items"]["table"] == (7, 64)
    kernels = [sizes["head"][name]["kernel"] for name in ("mlp_0", "mlp_1", "mlp_out")]
    assert kernels == [(128, 64), (64, 32), (32, 1)]
    rating = model.RatingHead(shape).apply(
        {"params": params["head"]}, 99 * jnp.ones((2, 64)), jnp.ones((2, 64))
    )
    assert ((rating >= 1) & (rating <= 5)).all()
    fit = FitConfig()
    assert (fit.batch, fit.epochs, fit.valid_share, fit.opt.lr, fit.opt.b2) == (
        1024,
        5,
        0.2,
        1e-3,
        0.999,
    )


def test_row_lazy_is_dense_adam_when_every_row_is_in_the_batch():
    rng = np.random.default_rng(0)
    user, item = np.divmod(rng.permutation(U * ITEMS)[: U * ITEMS // 2], ITEMS)
    user[:U], item[:ITEMS] = np.arange(U), np.arange(ITEMS)
    whole = Ratings(
        user.astype(np.int32),
        item.astype(np.int32),
        rng.uniform(1, 5, len(user)).astype(np.float32),
    )
    lazy, dense = (trained(SMALL, [whole] * 3, 1, tables) for tables in (True, False))
    assert_close(lazy, dense, atol=2e-6)


def test_absent_rows_stay_and_padding_has_no_weight():
    some = batch()
    padded = jax.tree.map(lambda x: np.resize(x, U * ITEMS // 2), some)  # as above: one program
    padded.item_B[32:], padded.user_B[32:] = -1, -1
    before = trained(SMALL, [some], 1)
    assert_close(trained(SMALL, [padded], 1), before, atol=1e-6)
    first = np.asarray(begun(SMALL)["users"]["table"])
    absent = np.setdiff1d(np.arange(U), some.user_B)
    np.testing.assert_array_equal(before["users"]["table"][absent], first[absent])


def test_eight_devices_equal_one_with_every_option_and_several_updates_a_call():
    parts = [batch(32, FULL), batch(32, FULL)]
    shape = dataclasses.replace(FULL, dropout=0.0)
    one = trained(shape, parts, 1, frozen=known())
    together = jax.tree.map(lambda a, b: np.stack([a, b], 1).reshape(-1, *a.shape[1:]), *parts)
    eight = trained(shape, [together], 8, updates=2, frozen=known())
    assert eight["users"]["table"].addressable_shards[0].data.shape == (U // 8, FULL.row)
    assert eight["history"]["table"].addressable_shards[0].data.shape == (ITEMS // 8, FULL.row)
    assert_close(eight, one, atol=5e-6, rtol=5e-5)


def test_a_prediction_does_not_know_that_its_own_pair_was_rated():
    params = begun(FULL)
    there, user, item = known(), jnp.asarray([3, 4]), jnp.asarray([5, 6])
    flipped = there.replace(taken_UI=there.taken_UI.copy(), takers_IU=there.takers_IU.copy())
    flipped.taken_UI[[3, 4], [5, 6]] ^= 1
    flipped.takers_IU[[5, 6], [3, 4]] ^= 1
    sides = jax.jit(lambda known: model.sides(FULL, params, known, user, item)[:2])
    assert_close(sides(flipped), sides(there), atol=1e-5)


def test_the_grid_is_the_head_on_every_pair():
    shape = dataclasses.replace(FULL, output="sigmoid")
    params = begun(shape)
    user, item = jax.random.normal(jax.random.key(1), (2, 5, shape.row))
    wide = lambda x, axis: jnp.broadcast_to(jnp.expand_dims(x, axis), (5, 5, shape.row))

    @jax.jit
    def both(head):
        got = model.grid(shape, head, user, item[None], model.halves(shape, head, item[None]))
        return got, model.RatingHead(shape).apply({"params": head}, wide(user, 1), wide(item, 0))

    got, wanted = both(params["head"])
    np.testing.assert_allclose(got, wanted, atol=1e-5)


CONFIG = DeepMFConfig(
    DeepMFShape(width=4, hidden=(), output="linear", biases=True, dot=True, init_std=0.3),
    RatingDecay(rows=0.002),
    FitConfig(batch=64, epochs=60, opt=OPT, valid_share=0.0, updates=8, devices=1),
)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    events, truth = planted()
    return (
        DeepMF(CONFIG).fit(histories(events), out=tmp_path_factory.mktemp("deepmf")),
        events,
        truth,
    )


def rmse(got, wanted) -> float:
    return float(np.sqrt(np.mean((got - wanted) ** 2)))


def test_planted_low_rank_ratings_are_recovered(fitted):
    found, events, truth = fitted
    held = np.ones((U, ITEMS), bool)
    held[events.user_T, events.item_T] = False
    user, item = np.nonzero(held)
    biased = rmse(np.full(len(user), events.rating_T.mean()), truth[user, item])
    got = found.predict(user, item)
    assert rmse(got, truth[user, item]) < 0.35 * biased
    np.testing.assert_allclose(found.score(histories(events))[user, item], got, atol=1e-5)
    assert found.user_vectors().shape == (U, 4) and found.item_vectors().shape == (ITEMS, 4)


def test_a_person_folded_in_is_predicted_like_the_trained_one(fitted):
    found, events, truth = fitted
    rows = histories(events)
    stranger = dataclasses.replace(rows, user_B=np.full(U, -1))
    known_to, folded = found.score(rows), found.score(stranger)
    assert (
        rmse(folded, known_to) < 0.25 and rmse(folded, truth) < 1.3 * rmse(known_to, truth) + 0.02
    )
    unseen, truth = planted(seed=11, people=20)  # people that training never saw
    told = found.score(dataclasses.replace(histories(unseen), user_B=np.full(20, -1)))
    assert rmse(told, truth) < 0.5 * rmse(truth.mean(), truth)
    nobody = Histories(
        np.zeros(0, int), np.zeros(2, int), np.array([-1]), U, ITEMS, np.zeros(0, np.float32)
    )
    mean = found.params["users"]["table"].mean(0)
    np.testing.assert_allclose(found.sides(nobody)[0], mean, atol=1e-5)
    pair = found.predict_for(nobody, np.array([3]))
    np.testing.assert_allclose(pair, found.score(nobody)[:, 3], atol=1e-5)


def test_files(fitted, tmp_path):
    found, events, _ = fitted
    found.save(tmp_path / "model")
    again = DeepMF.load(tmp_path / "model")
    assert again.config == found.config and again.facts == found.facts
    rows = dataclasses.replace(
        histories(events), user_B=np.where(np.arange(U) % 2, -1, np.arange(U))
    )
    np.testing.assert_allclose(again.score(rows), found.score(rows), atol=1e-6)
    np.testing.assert_array_equal(
        again.recommend(rows, 3).items_BJ, found.recommend(rows, 3).items_BJ
    )
    facts = (tmp_path / "model" / "facts.json").read_text()
    (tmp_path / "model" / "facts.json").write_text(facts.replace("deepmf", "other"))
    with pytest.raises(checkpoint.CheckpointError, match="other"):
        DeepMF.load(tmp_path / "model")


@pytest.mark.slow
def test_every_option_with_early_stopping_refit_and_files(tmp_path):
    events, _ = planted()
    words = SideFeatures.of_words(
        [[f"a{u % 3}"] for u in range(U)], [[f"g{i % 4}", "all"] for i in range(ITEMS)]
    )
    assert words.item_values == 5 and words.user_UF.shape == (U, 1)
    fit = FitConfig(
        batch=64, epochs=3, opt=OPT, valid_share=0.2, patience=2, refit=True, updates=1, devices=1
    )  # fmt: skip
    found = DeepMF(DeepMFConfig(FULL, RatingDecay(0.1, 0.1, 0.1), fit), words).fit(
        histories(events)
    )
    assert {"epoch", "valid_rmse", "noise", "refitted"} <= found.facts.keys()
    found.save(tmp_path / "model")
    again = DeepMF.load(tmp_path / "model")
    ask = (events.user_T[:9], events.item_T[:9])
    timed = found.predict(*ask, events.time_T[:9])
    np.testing.assert_allclose(again.predict(*ask, events.time_T[:9]), timed, atol=1e-6)
    assert np.abs(found.predict(*ask) - timed).max() > 0
    stranger = dataclasses.replace(histories(events).take(np.arange(3)), user_B=np.full(3, -1))
    np.testing.assert_allclose(again.score(stranger), found.score(stranger), atol=1e-6)


def test_context_is_the_shrunk_mean_of_the_persons_other_ratings_in_the_window():
    user, item = np.array([0, 0, 0, 1]), np.array([0, 1, 2, 0])
    rating, time = np.array([5.0, 1, 3, 3]), np.array([100, 105, 900, 101])
    context = RatingContext(user, item, rating, time, 2, 3, (0.0, 10.0, 1e9), (10.0,))
    r = context.residual_T
    own = context(user, item, time, r)
    np.testing.assert_allclose(own[0], [0, r[1] / 5, (r[1] + r[2]) / 6, r[3] / 5], atol=1e-6)
    np.testing.assert_allclose(own[3], [0, 0, 0, r[0] / 5], atol=1e-6)
    asked = context(np.array([1, 0]), np.array([1, 1]), np.array([0, 903]))
    np.testing.assert_allclose(asked[0], [0, 0, r[3] / 5, 0], atol=1e-6)
    np.testing.assert_allclose(asked[1], [0, r[2] / 5, r[:3].sum() / 7, 0], atol=1e-6)


def test_bad_input(fitted):
    found, events, _ = fitted
    rows = histories(events)
    with pytest.raises(DeepMFError, match="mixes"):
        DeepMFShape(hidden=())
    with pytest.raises(DeepMFError, match="side features"):
        DeepMF(DeepMFConfig(FULL))
    with pytest.raises(NotFitted):
        DeepMF().score(rows)
    with pytest.raises(DeepMFError, match="rating_T"):
        DeepMF(CONFIG).fit(dataclasses.replace(rows, rating_T=None))
    with pytest.raises(DeepMFError, match="nobody"):
        DeepMF(CONFIG).fit(dataclasses.replace(rows, user_B=np.full(U, -1)))
    with pytest.raises(DeepMFError, match="range"):
        DeepMF(CONFIG).fit(dataclasses.replace(rows, rating_T=rows.rating_T + 1))
    with pytest.raises(DeepMFError, match=r"numbered 0\.\.31"):
        found.predict(np.array([0]), np.array([ITEMS]))
    with pytest.raises(DeepMFError, match="rating_T"):
        found.fold_in(dataclasses.replace(rows, rating_T=None))
    with pytest.raises(DeepMFError, match="33 items"):
        found.score(dataclasses.replace(rows, n_items=33))
    with pytest.raises(DeepMFError, match="valid_share"):
        DeepMF(dataclasses.replace(CONFIG, fit=FitConfig(valid_share=0.0, refit=True))).fit(rows)

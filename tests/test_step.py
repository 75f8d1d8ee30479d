"""The one step: sharded = unsharded, tables by row, donation, one compilation, no needless collectives."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_training as tiny

from jaxrec import mesh as meshes
from jaxrec import tables
from jaxrec.structs import Aux
from jaxrec.training import gradients, optimizer
from jaxrec.training import step as steps

ONE = meshes.make(meshes.MeshConfig(), jax.devices()[:1])
KEY = jax.random.key(0)


def run(mesh, count=6, accum=1, **options):
    step, state, source = tiny.build(mesh, accum=accum, **options)
    place, state = state.source, state.replace(source=None)
    frozen = meshes.place(mesh, tiny.frozen())
    key = jax.device_put(KEY, meshes.replicated(mesh))
    for number in range(count):
        batch, place = source(number, state.params, place)
        state, metrics = step(state, frozen, meshes.place_batch(mesh, batch, tiny.ROWS), key)
    return step, state, metrics.fetch()


@pytest.fixture(scope="module")
def plain():
    return run(ONE)


@pytest.mark.parametrize(
    ("sizes", "accum"), [((8, 1, 1), 1), ((2, 2, 2), 1), ((1, 4, 2), 4), ((1, 1, 1), 4)]
)
def test_sharded_and_accumulated_equals_unsharded(plain, sizes, accum):
    mesh = meshes.make(meshes.MeshConfig(*sizes), jax.devices()[: np.prod(sizes)])
    step, state, metrics = run(mesh, accum=accum)
    for got, wanted in zip(tiny.numbers(state), tiny.numbers(plain[1]), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-6)
    assert metrics.keys() == plain[2].keys()
    assert metrics["loss"] == pytest.approx(plain[2]["loss"], rel=1e-5)
    assert step._cache_size() == 1
    if sizes == (1, 4, 2):
        kernel = state.params["mlp"]["up"]["kernel"]
        assert kernel.addressable_shards[0].data.shape == (tiny.WIDTH // 4, 16 // 2)


def test_the_step_learns_and_reports(plain):
    _, state, metrics = plain
    _, _, later = run(ONE, count=100, lr=0.1)
    assert later["loss"] < 0.7 * metrics["loss"]
    assert {"fit", "distil", "total/fit", "lr", "grad_norm/mlp", "param_norm/users/table"} <= set(
        metrics
    )
    groups = [value**2 for name, value in metrics.items() if name.startswith("grad_norm/")]
    assert metrics["grad_norm"] == pytest.approx(sum(groups) ** 0.5, rel=1e-5)
    assert int(state.step) == 6 and float(state.extra["mean"]) != 0


def test_people_who_are_not_in_the_batches_do_not_move():
    _, state, _ = run(ONE, count=1)
    source = tiny.build(ONE)[2]
    present = np.unique(source(0, None, source.init())[0]["user"])
    absent = np.setdiff1d(np.arange(tiny.PEOPLE), present)
    before, after = tiny.params()["users"]["table"], np.asarray(state.params["users"]["table"])
    assert len(absent) and len(present)
    np.testing.assert_array_equal(after[absent], before[absent])
    assert (after[present] != before[present]).any(axis=1).all()
    _, dense, _ = run(ONE, count=2, by_row=False)
    assert (np.asarray(dense.params["users"]["table"])[absent] != before[absent]).any()


def all_gathers(microbatches) -> int:
    """In the program of four microbatches on eight devices, with whole copies of the parameters."""
    mesh = meshes.make(meshes.MeshConfig(data=8))
    batch = jax.device_put(
        {"x": np.ones((64, 8), np.float32)}, meshes.NamedSharding(mesh, meshes.ROWS)
    )
    params = jax.device_put({"w": np.ones((8, 8), np.float32)}, meshes.replicated(mesh))

    def loss(p, f, e, b, totals, key_B):
        return (jnp.tanh(b["x"] @ p["w"]) ** 2).sum() / totals["n"], Aux({})

    weigh = lambda b: {"n": jnp.float32(b["x"].size)}
    how = gradients.Gradients(lambda *args: microbatches(*args))
    take = lambda p, b: how.take(loss, weigh, p, None, None, b, KEY)[0]
    return len(re.findall(r"all-gather", jax.jit(take).lower(params, batch).compile().as_text()))


def test_strided_microbatches_put_no_all_gather_into_the_program(monkeypatch):
    assert all_gathers(gradients.summed(4).take) == 0
    contiguous = lambda tree, n: jax.tree.map(lambda x: x.reshape(n, -1, *x.shape[1:]), tree)
    monkeypatch.setattr(gradients, "to_microbatches", contiguous)
    assert all_gathers(gradients.summed(4).take) > 0


def test_the_state_is_donated_and_the_caller_keeps_his_parameters():
    mine = meshes.place(ONE, tiny.params())
    opt = optimizer.Optimizer(optax.sgd(0.1))
    state = steps.init_state(ONE, mine, opt)
    loss = lambda p, f, e, b, t, k: ((p["head"]["kernel"] * b["x"].sum()).sum(), Aux({}))
    step = steps.make_step(loss, lambda b: {"n": jnp.float32(1)}, opt, state)
    old = state.params["head"]["kernel"]
    step(state, None, {"x": np.ones((2, 1), np.float32)}, KEY)
    assert old.is_deleted() and not mine["head"]["kernel"].is_deleted()


def test_the_global_norm_is_clipped_over_dense_weights_and_rows_alike():
    by_row = {"users/table": tables.RowAdam(ids=lambda b: b["user"])}
    opt = optimizer.Optimizer(optax.sgd(1.0), clip=0.01)
    state = steps.init_state(ONE, tiny.params(), opt, extra={"mean": np.float32(0)}, tables=by_row)
    step = steps.make_step(tiny.loss, tiny.weigh, opt, state, commit=tiny.commit, tables=by_row)
    batch = {name: array[:16] for name, array in tiny.arrays().items()}
    state, metrics = step(state, jax.tree.map(jnp.asarray, tiny.frozen()), batch, KEY)
    numbers = metrics.fetch()
    moved = np.asarray(state.params["head"]["kernel"]) - tiny.params()["head"]["kernel"]
    part = numbers["grad_norm/head"] / numbers["grad_norm"]
    assert np.linalg.norm(moved) == pytest.approx(0.01 * part, rel=1e-3)


def test_noise_on_every_parameter_and_tables_by_row_exclude_each_other():
    opt = optimizer.Optimizer(optax.sgd(1.0))
    state = steps.init_state(ONE, tiny.params(), opt, tables=tiny.TABLES)
    with pytest.raises(ValueError, match="densely"):
        steps.make_step(
            tiny.loss,
            tiny.weigh,
            opt,
            state,
            gradients=gradients.clipped(1.0, 1.0, 8),
            tables=tiny.TABLES,
        )


def test_a_batch_that_microbatches_and_devices_do_not_divide_is_refused():
    opt = optimizer.Optimizer(optax.sgd(1.0))
    state = steps.init_state(ONE, tiny.params(), opt, extra={"mean": np.float32(0)})
    step = steps.make_step(tiny.loss, tiny.weigh, opt, state, gradients=gradients.summed(3))
    batch = {name: array[:16] for name, array in tiny.arrays().items()}
    with pytest.raises(meshes.MeshError, match="16 rows does not divide by accum 3"):
        step(state, meshes.place(ONE, tiny.frozen()), batch, KEY)


def test_a_table_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="people/table"):
        by_row = {"people/table": tiny.TABLES["users/table"]}
        steps.init_state(ONE, tiny.params(), optimizer.Optimizer(optax.sgd(1.0)), tables=by_row)


def test_private_training_runs_and_learns():
    opt = optimizer.make(optimizer.OptConfig(lr=0.02), 200)
    state = steps.init_state(ONE, tiny.params(), opt, extra={"mean": np.float32(0)})
    how = gradients.clipped(1.0, 0.1, tiny.ROWS)
    step = steps.make_step(tiny.loss, tiny.weigh, opt, state, gradients=how)
    batch = {name: array[:16] for name, array in tiny.arrays().items()}
    frozen, losses = jax.tree.map(jnp.asarray, tiny.frozen()), []
    for _ in range(60):
        state, metrics = step(state, frozen, batch, KEY)
        losses.append(metrics.fetch()["loss"])
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_dropout_differs_by_step_and_by_row_and_repeats_with_the_key():
    opt = optimizer.Optimizer(optax.sgd(0.0))
    draw = lambda p, f, e, b, t, key_B: (
        0.0 * p["head"]["kernel"].sum(),
        Aux({f"row{i}": jax.random.uniform(key_B[i]) for i in range(2)}),
    )
    numbers = []
    for _ in range(2):
        state = steps.init_state(ONE, tiny.params(), opt)
        step = steps.make_step(draw, lambda b: {"n": jnp.float32(1)}, opt, state)
        for _ in range(2):
            state, metrics = step(state, None, {"x": np.ones((2, 1), np.float32)}, KEY)
            numbers.append([metrics.fetch()[f"row{i}"] for i in range(2)])
    assert numbers[:2] == numbers[2:]
    assert len({*numbers[0], *numbers[1]}) == 4


def test_weak_types_do_not_come_into_the_state():
    """A constant made by jax has one; the first update would change it, and the step be compiled anew."""
    weak = {"scale": jnp.full((2,), 2.0), "w": jnp.ones((2, 3))}
    assert weak["scale"].weak_type
    state = steps.init_state(ONE, weak, optimizer.make(optimizer.OptConfig(), steps=10))
    known = jax.tree.leaves((state.params, state.opt, state.step))
    assert not any(leaf.weak_type for leaf in known)


def test_a_state_of_shapes_is_that_of_arrays():
    mesh = meshes.make(meshes.MeshConfig(2, 2, 2))
    optim = optimizer.make(optimizer.OptConfig(), 10)
    _, state, _ = tiny.build(mesh)
    shapes = steps.init_state(mesh, jax.eval_shape(lambda: jax.device_get(state.params)), optim)
    look = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), tree)
    assert look(shapes.params) == look(state.params)
    assert shapes.step.sharding == state.step.sharding

"""The loop: resume = uninterrupted, metrics a step late yet all there, early stop, NaN, one compilation."""

import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_training as tiny

from jaxrec import checkpoint, log
from jaxrec import mesh as meshes
from jaxrec.data.source import ArraySource
from jaxrec.structs import Aux
from jaxrec.training import loop
from jaxrec.training import step as steps
from jaxrec.training.optimizer import Optimizer

ONE = meshes.make(meshes.MeshConfig(), jax.devices()[:1])


def same(got, wanted, **tolerance):
    for a, b in zip(tiny.numbers(got), tiny.numbers(wanted), strict=True):
        np.testing.assert_allclose(
            a, b, **tolerance
        ) if tolerance else np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    return out, tiny.train(out, steps=12, save_every=6, eval_every=4).state


def rows(out):
    return [
        {k: v for k, v in row.items() if k != "time"}
        for row in log.read_metrics(out / "metrics.jsonl", "train")
    ]


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, uninterrupted):
    out, whole = uninterrupted
    for until in (5, 7, 12):  # it ends (and saves) at 5 and 7, and goes on from there
        fitted = tiny.train(tmp_path, steps=until, eval_every=4)
    same(fitted.state, whole)
    speed = lambda row: {k: v for k, v in row.items() if not k.endswith("/s")}
    assert [speed(row) for row in rows(tmp_path)] == [speed(row) for row in rows(out)]


def test_on_another_mesh_the_state_is_exact_and_the_continuation_close(tmp_path, uninterrupted):
    _, whole = uninterrupted
    first = tiny.train(tmp_path, steps=6).state
    mesh = meshes.make(meshes.MeshConfig(2, 2, 2))
    same(tiny.train(tmp_path, steps=6, mesh=mesh).state, first)
    same(tiny.train(tmp_path, steps=12, mesh=mesh).state, whole, rtol=1e-4, atol=1e-6)


def test_metrics_are_written_for_every_step_although_a_step_late(uninterrupted):
    out, _ = uninterrupted
    assert [row["step"] for row in rows(out)] == list(range(1, 13))
    assert {"loss", "lr", "grad_norm", "tokens/s", "examples/s"} <= rows(out)[0].keys()
    evals = log.read_metrics(out / "metrics.jsonl", "eval")
    assert [row["step"] for row in evals] == [4, 8, 12]
    means = [np.mean([row["loss"] for row in rows(out)[i : i + 4]]) for i in (0, 4, 8)]
    np.testing.assert_allclose([row["train/loss"] for row in evals], means, rtol=1e-6)


def test_a_finished_run_is_not_trained_again(tmp_path):
    tiny.train(tmp_path, steps=3)
    written = (tmp_path / "metrics.jsonl").read_text()
    assert int(tiny.train(tmp_path, steps=3).state.step) == 3
    assert (tmp_path / "metrics.jsonl").read_text() == written


def test_a_folder_with_checkpoints_is_resumed_or_refused(tmp_path):
    tiny.train(tmp_path, steps=2)
    with pytest.raises(checkpoint.CheckpointError, match="resume it or name another folder"):
        tiny.train(tmp_path, steps=4, resume=False)


def slope(out, values, **options):
    """A run whose evaluation gives `values` one after the other, with one weight that counts the steps."""
    opt = Optimizer(optax.sgd(1.0))
    state = steps.init_state(ONE, {"w": np.zeros(1, np.float32)}, opt)
    loss = lambda p, f, e, b, t, k: (-p["w"].sum(), Aux({}))
    step = steps.make_step(loss, lambda b: {"n": jnp.float32(1)}, opt, state)
    source = ArraySource({"x": np.zeros((4, 1), np.float32)}, 2)
    values = iter(values)
    config = loop.LoopConfig(eval_every=1, monitor="score", progress=False, **options)
    return loop.fit(
        step,
        state.replace(source=source.init()),
        source,
        config=config,
        mesh=ONE,
        rows=2,
        out=out,
        evaluate=lambda params, step: {"score": next(values)},
        facts={"model": "slope"},
    )


def test_the_best_parameters_are_kept_beside_the_last(tmp_path):
    fitted = slope(tmp_path, [3, 1, 2, 5], steps=4)
    assert (fitted.stopped, fitted.best, fitted.value) == ("steps", 2, 1.0)
    assert checkpoint.load_params(tmp_path / "best")["w"] == 2
    assert checkpoint.load_facts(tmp_path / "best") == {"model": "slope", "step": 2, "score": 1.0}
    assert float(fitted.state.params["w"][0]) == 4


def test_patience_ends_the_run(tmp_path):
    fitted = slope(tmp_path, [1, 2, 3, 2.5, 2.9, 2.8, 9], steps=7, mode="max", patience=3)
    assert (fitted.stopped, fitted.best, int(fitted.state.step)) == ("patience", 3, 6)
    again = slope(tmp_path, [], steps=7, mode="max", patience=3)  # resumed, it is still stopped
    assert (again.stopped, int(again.state.step)) == ("patience", 6)


def test_a_plateau_is_too_small_an_improvement(tmp_path):
    values = [1.0, 0.5, 0.499, 0.498, 0.4]
    assert slope(tmp_path / "a", values, steps=5, patience=2).stopped == "steps"
    fitted = slope(tmp_path / "b", values, steps=5, patience=2, min_delta=0.01)
    assert (fitted.stopped, fitted.best, int(fitted.state.step)) == ("patience", 2, 4)


def test_patience_survives_a_resume(tmp_path):
    slope(tmp_path, [1, 2], steps=2, patience=3)
    fitted = slope(tmp_path, [2, 2, 2], steps=9, patience=3)
    assert (fitted.stopped, fitted.best, int(fitted.state.step)) == ("patience", 1, 4)


def test_a_name_that_nothing_has_is_an_error_with_the_names(tmp_path):
    with pytest.raises(ValueError, match=r"accuracy.*fit.*loss"):
        tiny.train(tmp_path, steps=2, eval_every=1, monitor="accuracy")


@pytest.mark.parametrize("lr", [1e38, 1.0])
def test_not_a_number_stops_names_step_and_group_and_keeps_the_last_good(tmp_path, monkeypatch, lr):
    """At lr 1e38 the weights themselves overflow; else the data turn bad in a step that is to be saved."""
    bad = tiny.arrays()
    picked = []

    def spoilt(number, params, state):
        batch, state = source(number, params, state)
        if number == 5 and lr == 1.0:
            batch["x"] = batch["x"] * np.nan
        picked.append(number)
        return batch, state

    source = ArraySource(bad, tiny.ROWS, seed=3)
    step, state, _ = tiny.build(ONE, lr=lr, by_row=False)
    config = loop.LoopConfig(steps=12, save_every=2, progress=False, keep=1)
    with pytest.raises(loop.NonFinite) as error:
        given = meshes.place(ONE, tiny.frozen())
        loop.fit(step, state, spoilt, config=config, mesh=ONE, rows=16, out=tmp_path, frozen=given)
    said = str(error.value)
    kept = checkpoint.Checkpoints(tmp_path / "checkpoints").steps()
    assert "parameter groups" in said and "mlp" in said
    if lr == 1.0:
        assert (
            said.startswith("step 6: the loss is nan")
            and "the last good checkpoint is step 4" in said
        )
        assert kept == [4]
        assert max(picked) == 5  # found before the checkpoint of that very step was written
    else:
        assert "users" in said
    for number in kept:
        with checkpoint.Checkpoints(
            tmp_path / "checkpoints", frozen=checkpoint.fingerprint(tiny.frozen())
        ) as saved:
            assert number in saved.steps()
            got, _ = saved.restore(tiny.build(ONE, by_row=False)[1])
        assert all(np.isfinite(x).all() for x in tiny.numbers(got.params))


def test_only_the_group_to_blame_is_named(tmp_path):
    opt = Optimizer(optax.sgd(1.0))
    params = {"good": {"w": np.ones(2, np.float32)}, "bad": {"w": np.zeros(2, np.float32)}}
    state = steps.init_state(ONE, params, opt, source={})
    # The root of 0 has an infinite slope, although the loss is finite.
    loss = lambda p, f, e, b, t, k: (p["good"]["w"].sum() + jnp.sqrt(p["bad"]["w"]).sum(), Aux({}))
    step = steps.make_step(loss, lambda b: {"n": jnp.float32(1)}, opt, state)
    source = lambda number, params, state: ({"x": np.zeros(2)}, state)
    config = loop.LoopConfig(steps=3, progress=False)
    with pytest.raises(
        loop.NonFinite, match=r"step 1: .* parameter groups bad; .* nothing was saved"
    ):
        loop.fit(step, state, source, config=config, mesh=ONE, rows=2, out=tmp_path)


def test_sigterm_saves_and_exits_with_143_and_the_run_goes_on_from_there(tmp_path, uninterrupted):
    _, whole = uninterrupted
    step, state, source = tiny.build(ONE)

    def killed(number, params, state):
        if number == 7:
            signal.raise_signal(signal.SIGTERM)
        return source(number, params, state)

    before = signal.getsignal(signal.SIGTERM)
    config = loop.LoopConfig(steps=12, progress=False, log_every=1)
    given = meshes.place(ONE, tiny.frozen())
    with pytest.raises(SystemExit) as stop:
        loop.fit(step, state, killed, config=config, mesh=ONE, rows=16, out=tmp_path, frozen=given)
    assert stop.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert checkpoint.Checkpoints(tmp_path / "checkpoints").steps() == [8]
    same(tiny.train(tmp_path, steps=12).state, whole)


def test_a_batch_of_another_shape_is_an_error_as_it_compiles_again(tmp_path):
    step, state, source = tiny.build(ONE)

    def shrinking(number, params, state):
        batch, state = source(number, params, state)
        return (jax.tree.map(lambda x: x[:8], batch) if number == 1 else batch), state

    config = loop.LoopConfig(steps=3, progress=False)
    with pytest.raises(RuntimeError, match="compiled 2 times"):
        given = meshes.place(ONE, tiny.frozen())
        loop.fit(
            step, state, shrinking, config=config, mesh=ONE, rows=16, out=tmp_path, frozen=given
        )


def test_config_is_written_beside_the_results(tmp_path):
    step, state, source = tiny.build(ONE)
    config = loop.LoopConfig(steps=1, progress=False)
    given = meshes.place(ONE, tiny.frozen())
    loop.fit(
        step,
        state,
        source,
        config=config,
        mesh=ONE,
        rows=16,
        out=tmp_path,
        frozen=given,
        resolved=config,
    )
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 1
    assert (tmp_path / "environment.json").is_file()
    assert (tmp_path / "checkpoints" / "config.json").is_file()


def test_a_resume_with_other_settings_is_refused_and_the_record_stays(tmp_path):
    tiny.train(tmp_path, steps=2)
    record = tmp_path / "environment.json"
    record.write_text("of the first run")
    with pytest.raises(checkpoint.CheckpointError, match=r"seed: 0 -> 1\. .*--loop\.allow-changes"):
        tiny.train(tmp_path, steps=4, seed=1)
    assert record.read_text() == "of the first run"
    tiny.train(tmp_path, steps=4, seed=1, allow_changes=True, keep=5, save_every=1)
    assert record.read_text() != "of the first run"

"""Checkpoints: exact, onto another mesh too; damaged, foreign or unwritable ones are said and nothing is lost."""

import errno
import os
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_training as tiny

from jaxrec import checkpoint
from jaxrec import mesh as meshes
from jaxrec.checkpoint import CheckpointError, Checkpoints

ONE = meshes.make(meshes.MeshConfig(), jax.devices()[:1])
EIGHT = meshes.make(meshes.MeshConfig(2, 2, 2))


@pytest.fixture(scope="module")
def state():
    return tiny.build(ONE)[1]


def at(state, step):
    return state.replace(step=jnp.int32(step), extra={"mean": jnp.float32(step)})


def same(got, wanted):
    for a, b in zip(tiny.numbers(got), tiny.numbers(wanted), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def test_the_newest_is_restored_and_only_so_many_are_kept(tmp_path, state):
    with Checkpoints(tmp_path, keep=2, config=None) as saved:
        assert saved.restore(state) is None
        for step in (1, 2, 3):
            saved.save(at(state, step), {"best": step / 3})
    with Checkpoints(tmp_path, keep=2) as saved:
        assert saved.steps() == [2, 3]
        got, told = saved.restore(state)
    same(got, at(state, 3))
    assert told == {"best": 1.0}
    assert jax.tree.structure(got) == jax.tree.structure(state)


def test_what_is_saved_is_the_state_before_it_was_donated(tmp_path):
    """The step reuses the memory of a state whose checkpoint is still being written."""
    state = {"w": jnp.arange(1 << 20, dtype=jnp.float32)}
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    whole = checkpoint.TrainState(
        step=jnp.int32(1), params=state, opt=None, extra=None, source=None
    )
    with Checkpoints(tmp_path) as saved:
        saved.save(whole)
        for _ in range(3):
            state = overwrite(state)
        like = whole.replace(params={"w": jnp.zeros(1 << 20)})
        saved.wait()
        got, _ = saved.restore(like)
    np.testing.assert_array_equal(got.params["w"], np.arange(1 << 20))


def test_a_state_goes_onto_another_mesh_and_back(tmp_path, state):
    wide = tiny.build(EIGHT)[1]
    with Checkpoints(tmp_path) as saved:
        saved.save(state)
        saved.wait()
        got, _ = saved.restore(wide)
    same(got, state)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wide), strict=True):
        if isinstance(b, jax.Array):
            assert a.sharding == b.sharding


@pytest.mark.parametrize("how", ["cut", "empty", "gone", "changed"])
@pytest.mark.parametrize(
    "which", ["state/manifest.ocdbt", "state/_METADATA", "state/d/*", "meta/metadata"]
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_damaged_newest_checkpoint_is_said_and_the_one_before_is_used(
    tmp_path, state, how, which, caplog
):
    with Checkpoints(tmp_path) as saved:
        saved.save(at(state, 1))
        saved.save(at(state, 2))
    path = max((tmp_path / "2").glob(which), key=lambda p: p.stat().st_size)
    content = path.read_bytes()
    middle = len(content) // 2
    if how == "gone":
        path.unlink()
    else:
        flipped = content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]
        path.write_bytes({"cut": content[:middle], "empty": b"", "changed": flipped}[how])
    with Checkpoints(tmp_path) as saved:
        got, _ = saved.restore(state)
        assert saved.steps() == [1]
        same(got, at(state, 1))
        assert f"checkpoint 2 in {tmp_path} is damaged and is not used" in caplog.text
        saved.save(at(state, 2))  # the run goes on and makes it again
    with Checkpoints(tmp_path) as saved:
        same(saved.restore(state)[0], at(state, 2))
    assert (tmp_path / "2.damaged").is_dir()


def test_when_none_can_be_read_it_stops_instead_of_starting_anew(tmp_path, state):
    with Checkpoints(tmp_path) as saved:
        saved.save(state)
    (tmp_path / "0" / "meta" / "metadata").write_text("")
    with (
        Checkpoints(tmp_path) as saved,
        pytest.raises(CheckpointError, match="none of the checkpoints"),
    ):
        saved.restore(state)


def test_other_frozen_weights_are_refused(tmp_path, state):
    mine, other = tiny.frozen(), jax.tree.map(lambda x: x + 1e-3, tiny.frozen())
    with Checkpoints(tmp_path, frozen=checkpoint.fingerprint(mine)) as saved:
        saved.save(state)
    with (
        Checkpoints(tmp_path, frozen=checkpoint.fingerprint(other)) as saved,
        pytest.raises(CheckpointError, match="other frozen weights"),
    ):
        saved.restore(state)
    assert (tmp_path / "0").is_dir()


def test_another_model_is_refused_by_the_name_of_its_first_difference(tmp_path, state):
    with Checkpoints(tmp_path) as saved:
        saved.save(state)
        saved.wait()
        wider = state.params | {"head": {"kernel": jnp.ones((17, 1))}}
        with pytest.raises(
            CheckpointError, match=r"params/head/kernel has the shape \(16, 1\) there"
        ):
            saved.restore(state.replace(params=wider))
        more = state.params | {"value": {"kernel": jnp.ones((1, 1))}}
        with pytest.raises(CheckpointError, match="lacks params/value/kernel"):
            saved.restore(state.replace(params=more))
    assert (tmp_path / "0").is_dir()


def test_the_fingerprint_is_of_paths_types_and_values_on_any_mesh():
    tree = {"a": {"kernel": np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)}}
    one = checkpoint.fingerprint(tree)
    assert one == checkpoint.fingerprint(meshes.place(EIGHT, tree)) and len(one) == 16
    swapped = tree["a"]["kernel"].copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    changed = [{"b": tree["a"]}, {"a": {"kernel": swapped}}, jax.tree.map(lambda x: x.T, tree)]
    changed += [
        {"a": {"kernel": tree["a"]["kernel"].astype(t)}} for t in (jnp.bfloat16, np.int8, bool)
    ]
    assert len({one, *map(checkpoint.fingerprint, changed)}) == 7
    assert checkpoint.fingerprint(None) == checkpoint.fingerprint({}) == ""


def test_parameters_of_a_finished_stage(tmp_path):
    path = tmp_path / "stage" / "params"
    checkpoint.save_params(path, tiny.params(), {"step": 1})
    checkpoint.save_params(path, jax.tree.map(lambda x: x + 1, tiny.params()), {"step": 2})
    got = checkpoint.load_params(path)
    same(got, jax.tree.map(lambda x: x + 1, tiny.params()))
    assert checkpoint.load_facts(path) == {"step": 2}
    placed = checkpoint.load_params(path, EIGHT)
    same(placed, got)
    assert placed["mlp"]["up"]["kernel"].addressable_shards[0].data.shape == (4, 8)
    assert sorted(p.name for p in path.parent.iterdir()) == ["params"]


def test_a_kill_between_the_two_renames_leaves_the_old_parameters(tmp_path):
    path = tmp_path / "params"
    checkpoint.save_params(path, tiny.params(), {"step": 1})
    path.rename(tmp_path / "params.old")
    same(checkpoint.load_params(path), tiny.params())
    checkpoint.save_params(path, tiny.params(), {"step": 2})
    assert checkpoint.load_facts(path) == {"step": 2}
    with pytest.raises(CheckpointError, match="no saved parameters"):
        checkpoint.load_params(tmp_path / "elsewhere")


def test_a_write_error_is_said_and_the_older_checkpoint_stays(tmp_path, state, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Checkpoints(tmp_path) as saved:
        saved.save(at(state, 1))
        saved.wait()
        monkeypatch.setattr(saved._orbax, "save", full)
        with pytest.raises(CheckpointError, match=r"disk is full\. Checkpoints .* good: \[1\]"):
            saved.save(at(state, 2))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_disk_that_is_really_full(tmp_path):
    """A small tmpfs, which needs root; the test above stands in where there is none."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=2500k", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        noise = (
            np.random.default_rng(0).normal(size=250_000).astype(np.float32)
        )  # does not compress
        whole = checkpoint.TrainState(
            step=jnp.int32(1), params={"w": jnp.asarray(noise)}, opt=None, extra=None, source=None
        )
        with Checkpoints(tmp_path / "c") as saved:
            saved.save(whole)
            saved.wait()
            with pytest.raises(CheckpointError, match="disk is full"):
                for step in (2, 3, 4):
                    saved.save(whole.replace(step=jnp.int32(step)))
                    saved.wait()
            good = saved.steps()
        assert good
        with Checkpoints(tmp_path / "c") as saved:
            got, _ = saved.restore(whole)
        same(got.params, whole.params)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)

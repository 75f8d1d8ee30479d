"""The mesh and the rules that lay arrays on it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxrec import mesh as meshes
from jaxrec.mesh import MeshConfig, MeshError


@pytest.fixture(scope="module")
def mesh():
    return meshes.make(MeshConfig(data=-1, fsdp=2, tensor=2))


def test_minus_one_takes_the_rest(mesh):
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (MeshConfig(data=3, fsdp=1), "takes 3 devices, but there are 8"),
        (MeshConfig(data=-1, tensor=3), "3 does not divide the 8 devices"),
        (MeshConfig(data=-1, fsdp=-1), "at most one is -1"),
        (MeshConfig(data=0), "sizes are positive"),
    ],
)
def test_a_mesh_that_does_not_fit_the_devices_names_the_numbers(config, said):
    with pytest.raises(MeshError, match=said):
        meshes.make(config)


def test_axes_are_auto_so_that_a_plain_matmul_works(mesh):
    x = jax.device_put(jnp.ones((8, 4)), meshes.NamedSharding(mesh, P(("data", "fsdp"))))
    w = jax.device_put(jnp.ones((4, 6)), meshes.NamedSharding(mesh, P("fsdp", "tensor")))
    np.testing.assert_array_equal(x @ w, 4)


@pytest.mark.parametrize(
    ("path", "shape", "spec"),
    [
        ("embed/table", (32, 8), P("tensor", "fsdp")),
        ("stack_0/attn/q/kernel", (3, 8, 16), P(None, "fsdp", "tensor")),
        ("stack_0/attn/q/bias", (3, 16), P(None, "tensor")),
        ("stack_1/attn/o/kernel", (3, 16, 8), P(None, "tensor", "fsdp")),
        ("stack_1/mlp/down/kernel", (3, 16, 8), P(None, "tensor", "fsdp")),
        ("stack_1/mlp/up/kernel", (3, 8, 16), P(None, "fsdp", "tensor")),
        ("stack_0/attn_norm/scale", (3, 8), P()),
        ("head/kernel", (8, 32), P("fsdp", "tensor")),
        ("opt/dense/0/mu/stack_0/attn/q/kernel", (3, 8, 16), P(None, "fsdp", "tensor")),
        ("opt/dense/0/count", (), P()),
        ("users/table", (64, 4), P("fsdp")),
        ("opt/rows/users/table/mu", (64, 4), P("fsdp")),
        ("opt/rows/users/table/seen", (64,), P("fsdp")),
        ("stack_0/attn/q/kernel", (3, 7, 16), P(None, None, "tensor")),  # 7 is not divisible: whole
        ("embed/table", (33, 8), P(None, "fsdp")),
        ("something/else", (8, 8), P()),
    ],
)
def test_rules_by_path(mesh, path, shape, spec):
    assert meshes.spec_for(mesh, path, shape) == spec


def test_a_large_leaf_that_cannot_be_split_is_said(mesh, caplog):
    meshes.spec_for(mesh, "embed/table", (1_000_001, 8))
    assert "1000001 is not divisible by tensor=2" in caplog.text


def test_sharded_init_makes_each_leaf_where_it_lies(mesh):
    init = lambda key: {"mlp": {"up": {"kernel": jax.random.normal(key, (8, 16))}}}
    kernel = meshes.sharded_init(mesh, init, jax.random.key(0))["mlp"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (4, 8)
    np.testing.assert_allclose(kernel, init(jax.random.key(0))["mlp"]["up"]["kernel"], rtol=1e-6)


def test_settle_moves_only_what_lies_elsewhere(mesh):
    tree = {"mlp": {"up": {"kernel": np.ones((8, 16), np.float32)}}}
    placed = meshes.settle(mesh, tree)
    assert placed["mlp"]["up"]["kernel"].addressable_shards[0].data.shape == (4, 8)
    assert meshes.settle(mesh, placed) is placed
    assert meshes.settle(mesh, None) is None


def test_place_batch_splits_rows_over_data_and_fsdp(mesh):
    placed = meshes.place_batch(mesh, {"x": np.arange(16).reshape(8, 2), "none": None}, 8)
    assert placed["x"].addressable_shards[0].data.shape == (2, 2)
    assert meshes.process_rows(mesh, 8) == slice(0, 8)


def test_a_batch_that_does_not_divide_is_refused(mesh):
    with pytest.raises(
        MeshError, match=r"10 rows does not divide by accum 2 x data 2 x fsdp 2 = 8"
    ):
        meshes.check_batch(mesh, 10, accum=2)


def test_shapes_alone_are_placed_as_arrays_are(mesh):
    tree = {"stack_0": {"attn": {"q": {"kernel": jnp.zeros((2, 8, 4))}}}, "scale": jnp.zeros(3)}
    there = meshes.place(mesh, tree)
    shapes = meshes.place(mesh, jax.eval_shape(lambda: tree))
    assert jax.tree.map(lambda x: (x.shape, x.sharding), shapes) == jax.tree.map(
        lambda x: (x.shape, x.sharding), there
    )
    rows = meshes.place_batch(mesh, jax.ShapeDtypeStruct((8, 3), jnp.int32), 8)
    assert rows.sharding == meshes.place_batch(mesh, np.zeros((8, 3), np.int32), 8).sharding

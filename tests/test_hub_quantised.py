"""A checkpoint becomes a quantised model tensor by tensor: the same codes, never the float model, clear refusals."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxrec import hub, quant
from jaxrec import mesh as meshes
from jaxrec.hub import quantised, weights
from jaxrec.nn.decoder import Decoder, DecoderConfig

CFG = DecoderConfig(vocab=40, d_model=64, layers=3, heads=2, groups=1, head_dim=32, d_ff=96)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(parameters, their folder in several shards)."""
    init = jax.jit(Decoder(CFG).init)
    params = init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    folder = tmp_path_factory.mktemp("llama")
    hub.save(folder, CFG, params, shard_bytes=60_000)
    return params, folder


@pytest.mark.parametrize(("kind", "head", "cuts"), [("nf4", False, (1,)), ("int8", True, ())])
def test_loading_quantised_is_loading_then_quantising(saved, kind, head, cuts):
    _, folder = saved
    cfg, got = quantised.load(folder, kind, head=head, cuts=cuts, param_dtype=jnp.bfloat16)
    _, plain = hub.load(folder, cuts=cuts)
    want = quant.quantise_params(plain, kind, head=head)
    half = lambda x: x if quant.is_quantised(x) else x.astype(jnp.bfloat16)
    want = jax.tree.map(half, want, is_leaf=quant.is_quantised)
    assert cfg.cuts == cuts and jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_onto_a_mesh(saved):
    _, folder = saved
    mesh = meshes.make(meshes.MeshConfig(data=1, fsdp=2, tensor=4))
    _, params = quantised.load(folder, mesh=mesh)
    up = params["stack_0"]["mlp"]["up"]["kernel"]
    assert up.code_NFC.sharding.shard_shape(up.code_NFC.shape) == (3, 24, 16)
    assert up.gathered is not None and params["head"]["kernel"].sharding.mesh == mesh


def test_no_file_stays_open_over_a_second_matrix(saved, monkeypatch):
    """What a mapped file leaves in memory is at most the pages of the tensor at hand."""
    _, folder = saved
    read, held = weights.Tensors.slice, []

    def counting(self, name, index):
        held.append(len(self._open))
        return read(self, name, index)

    monkeypatch.setattr(weights.Tensors, "slice", counting)
    quantised.load(folder)
    assert held.count(0) >= 21  # each kernel of each layer


def test_what_is_wrong_with_a_checkpoint_is_said(saved, tmp_path):
    _, folder = saved
    with pytest.raises(quant.QuantError, match="'q4' is not known"):
        quantised.load(folder, "q4")
    files = sorted(folder.glob("*.safetensors"))
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    cut = tmp_path / files[0].name
    cut.write_bytes(cut.read_bytes()[:-1000])
    with pytest.raises(hub.ModelError, match=f"{cut.name} is damaged"):
        quantised.load(tmp_path)
    cut.write_bytes(files[0].read_bytes())
    name = "model.layers.1.mlp.up_proj.weight"
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    shard = tmp_path / index[name]
    tensors = load_file(shard)
    tensors[name][3, 5] = np.inf
    save_file(tensors, shard)
    with pytest.raises(hub.ModelError, match=f"{name}: a weight is not finite"):
        quantised.load(tmp_path)

"""Weights in 4 and 8 bits: the published numbers bit for bit, gradients to x alone, no float kernel kept or sent."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import mesh as meshes
from jaxrec import quant
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.nn.embed import scores_of, vectors_of
from jaxrec.quant.trees import pack
from jaxrec.training import optimizer
from jaxrec.training.step import init_state

CFG = DecoderConfig(vocab=40, d_model=64, layers=3, heads=4, groups=2, head_dim=16, d_ff=128)
IDS = jnp.array([[3, 5, 7, 9, 11, 2], [4, 4, 8, 1, 0, 6]], jnp.int32)


# Where x is rounded as well, a product is not that of the floats which the code stands for.
ROUNDED = {"bf16": 0.03}


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.05, shape).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    return jax.jit(Decoder(CFG).init)(jax.random.key(0), IDS)["params"]


# ------------------------------------------------------------------------------------------------ the numbers


def eight_bit_values() -> np.ndarray:
    """The dynamic data type from its definition: +-10^(e-6) x the middles of 2^e equal parts of [0.1, 1]."""
    values = [0.0, 1.0]
    for e in range(7):
        for i in range(2**e):
            middle = 0.1 + 0.9 * (i + 0.5) / 2**e
            values += [10.0 ** (e - 6) * middle, -(10.0 ** (e - 6)) * middle]
    return np.array(sorted(values))


def reference(w: np.ndarray) -> dict[str, np.ndarray]:
    """NF4 with double quantisation of [F, D] by QLoRA's definition: nearest values, one block after the other."""
    four, eight = np.array(quant.NF4, np.float32), quant.dynamic_map()
    one = np.float32(1)
    blocks = w.reshape(-1, 64)
    peak = np.abs(blocks).max(1)
    code = np.abs((blocks * (one / peak)[:, None])[..., None] - four).argmin(-1)
    mean = np.float32(peak.astype(np.float64).mean())
    scale, outer = [], []
    for start in range(0, len(peak), 256):
        away = peak[start : start + 256] - mean
        outer.append(np.abs(away).max())
        scale.append(np.abs((away * (one / outer[-1]))[:, None] - eight).argmin(-1))
    again = np.concatenate(
        [eight[s] * o + mean for s, o in zip(scale, outer, strict=True)], dtype=np.float32
    )
    return {
        "code": code, "scale": np.concatenate(scale), "outer": np.array(outer), "mean": mean,
        "whole": (four[code] * again[:, None]).reshape(w.shape),
    }  # fmt: skip


def codes_of(w: quant.Nf4) -> np.ndarray:
    """The 4-bit codes [F x K, 64] in the order of the weights."""
    blocks = np.asarray(w.code_NFC).reshape(-1, 32)
    return np.concatenate([blocks >> 4, blocks & 15], axis=1)


def test_the_eight_bit_values_are_the_published_ones():
    np.testing.assert_allclose(quant.dynamic_map(), eight_bit_values(), rtol=3e-7)
    assert quant.dynamic_map()[[0, 127, 255]] == pytest.approx([-0.99296875, 0, 1])


@pytest.mark.parametrize("shape", [(96, 512), (24, 11008), (70, 64)])
def test_nf4_equals_an_independent_reference_bit_for_bit(shape):
    w = normal(*shape)
    q, want = quant.quantise_rows(jnp.asarray(w), "nf4"), reference(w)
    np.testing.assert_array_equal(codes_of(q), want["code"])
    np.testing.assert_array_equal(np.ravel(q.scale_NFK), want["scale"])
    parts = pack(q)["nf4"]
    np.testing.assert_array_equal(parts["outer"], want["outer"])
    np.testing.assert_array_equal(parts["mean"], want["mean"])
    np.testing.assert_array_equal(jax.jit(lambda q: q.rows())(q), want["whole"])


def test_nf4_equals_bitsandbytes():
    """First level bit for bit. Its CPU code rounds scales by a table of 2^16 entries, so a few differ by a step."""
    functional = pytest.importorskip("bitsandbytes.functional")
    import torch

    w = normal(96, 512)
    q = quant.quantise_rows(jnp.asarray(w), "nf4")
    packed, state = functional.quantize_4bit(
        torch.from_numpy(w), compress_statistics=True, quant_type="nf4"
    )
    theirs = packed.numpy().reshape(-1, 32)
    np.testing.assert_array_equal(
        codes_of(q), np.stack([theirs >> 4, theirs & 15], -1).reshape(-1, 64)
    )
    np.testing.assert_array_equal(quant.dynamic_map(), functional.create_dynamic_map().numpy())
    np.testing.assert_array_equal(np.ravel(q.outer_NFJ)[::32], state.state2.absmax.numpy())
    steps = np.ravel(q.scale_NFK).astype(int) - state.absmax.numpy()
    assert np.abs(steps).max() <= 1 and np.mean(steps != 0) < 0.005


def test_int8_is_within_half_a_step_of_each_output():
    w = normal(2, 64, 32)
    q = quant.quantise(jnp.asarray(w), "int8")
    step = np.abs(w).max(-2) / 127
    error = np.abs(np.swapaxes(np.asarray(q.rows()), -1, -2) - w)
    assert q.shape == w.shape and (error <= 0.5001 * step[:, None, :]).all()


def test_in_bf16_both_factors_are_short_and_the_sum_is_not():
    w, x = normal(512, 8), normal(3, 512, seed=1)
    q = quant.quantise(jnp.asarray(w), "bf16")
    short = lambda y: np.asarray(jnp.asarray(y).astype(jnp.bfloat16), np.float64)
    np.testing.assert_allclose(q.matmul(jnp.asarray(x)), short(x) @ short(w), rtol=1e-5, atol=1e-5)
    back = jax.grad(lambda x: (q.matmul(x) * w[:3]).sum())(jnp.asarray(x))
    np.testing.assert_allclose(back, short(w[:3]) @ short(w).T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", quant.KINDS)
def test_a_width_that_blocks_do_not_divide_and_rows_of_zeros(kind):
    w = normal(100, 8)
    w[:, 3] = 0
    q = quant.quantise(jnp.asarray(w), kind)
    x = jnp.asarray(normal(2, 3, 100, seed=1))
    assert q.shape == (100, 8)
    np.testing.assert_allclose(q.matmul(x), x @ q.rows().T, atol=ROUNDED.get(kind, 1e-6))
    assert np.abs(np.asarray(q.rows()).T - w).max() < 0.03 and not np.asarray(q.rows())[3].any()


def test_what_cannot_be_quantised_is_refused():
    with pytest.raises(quant.QuantError, match="'fp4' is not known: choose one of nf4, int8"):
        quant.quantise(jnp.ones((64, 2)), "fp4")
    with pytest.raises(quant.QuantError, match="only matrices"):
        quant.quantise(jnp.ones(64), "nf4")
    for kind in quant.KINDS:
        with pytest.raises(quant.QuantError, match="not finite"):
            quant.quantise(jnp.ones((64, 2)).at[3, 1].set(jnp.nan), kind)


# ------------------------------------------------------------------------------------------------ in a model


@jax.jit
def logits_and_gradient(embed, rest):
    def loss(embed):
        out = Decoder(CFG).apply({"params": {**rest, "embed": embed}}, IDS)
        return jnp.square(out.logits).mean(), out.logits

    return jax.grad(loss, has_aux=True)(embed)


@pytest.mark.parametrize("kind", quant.KINDS)
def test_a_quantised_model_is_its_dequantised_self_and_passes_gradients_through(params, kind):
    small = quant.quantise_params(params, kind, head=True)
    assert quant.kinds_in(small) == {kind}
    assert not quant.is_quantised(small["embed"]["table"])
    assert quant.parameters(small) == quant.parameters(params)
    float_self = quant.whole(small)
    got, want, plain = (logits_and_gradient(x["embed"], x) for x in (small, float_self, params))
    near = ROUNDED.get(kind, 2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=near), got, want)
    away = np.abs(np.asarray(got[1]) - plain[1]).max()
    assert 0 < away < (0.2 if kind == "nf4" else 0.02)


@pytest.mark.parametrize("kind", quant.KINDS)
def test_a_quantised_table_is_read_by_row_and_multiplied_whole(params, kind):
    table = jnp.asarray(normal(40, 64))
    small = quant.quantise_params({"embed": {"table": table}}, kind, table=True)["embed"]["table"]
    rows = np.asarray(small.rows())
    ids, x = jnp.array([[3, 39], [0, 3]]), jnp.asarray(normal(3, 64))[None]
    np.testing.assert_array_equal(vectors_of(small, ids), rows[np.asarray(ids)])
    near = ROUNDED.get(kind, 1e-4)
    np.testing.assert_allclose(scores_of(small, x), np.asarray(x) @ rows.T, atol=near)
    assert np.abs(rows - table).max() < (0.4 if kind == "nf4" else 0.02)
    tied = dataclasses.replace(CFG, tied=True)
    tree = {name: part for name, part in params.items() if name != "head"}
    whole = quant.quantise_params(tree, kind, table=True)
    logits = jax.jit(lambda p: Decoder(tied).apply({"params": p}, IDS).logits)
    near = ROUNDED.get(kind, 2e-5)
    np.testing.assert_allclose(logits(whole), logits(quant.whole(whole)), atol=near)


def test_a_head_is_quantised_by_the_same_call_and_nothing_at_all_is_an_error():
    head = {
        "layer_0": {"cross": {"k": {"kernel": jnp.ones((8, 4))}}},
        "norm": {"scale": jnp.ones(8)},
    }
    small = quant.quantise_params({"head": head}, "int8")["head"]
    assert quant.is_quantised(small["layer_0"]["cross"]["k"]["kernel"])
    assert quant.quantise_params(small, "int8")["norm"]["scale"] is small["norm"]["scale"]
    other = {"proj": {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}}
    with pytest.raises(quant.QuantError, match=r"nothing to quantise: .*there are proj/kernel$"):
        quant.quantise_params(other, "int8")
    named = quant.quantise_params(other, "int8", kernels="proj/kernel")
    assert quant.is_quantised(named["proj"]["kernel"])
    with pytest.raises(quant.QuantError, match="there are none at all"):
        quant.quantise_params({}, "int8")


def test_asking_to_train_codes_is_a_clear_error(params):
    small = quant.quantise_params(params)
    with pytest.raises(quant.QuantError, match="train a Delta"):
        init_state(
            meshes.make(devices=jax.devices()[:1]), small, optimizer.make(optimizer.OptConfig(), 1)
        )
    q = quant.quantise(jnp.ones((64, 2)), "nf4")

    def through_scale(outer):
        return q.replace(outer_NFJ=outer).matmul(jnp.ones((1, 64))).sum()

    with pytest.raises(quant.QuantError, match="train a Delta"):
        jax.grad(through_scale)(q.outer_NFJ)


def test_half_precision_stays_half(params):
    q = quant.quantise(jnp.asarray(normal(64, 32)), "nf4")
    y = q.matmul(jnp.ones((1, 64), jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), q.matmul(jnp.ones((1, 64))), atol=0.02)


def test_disk_and_back(params, tmp_path):
    tree = {"backbone": quant.quantise_params(params, "nf4"), "other": {"x": jnp.arange(3.0)}}
    tree["backbone"]["head"] = quant.quantise_params(params, "int8", head=True)["head"]
    tree["half"] = quant.quantise(jnp.asarray(normal(64, 8)), "bf16")
    quant.save(tmp_path / "q", tree, {"kind": "nf4"})
    back = quant.load(tmp_path / "q")
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    jax.tree.map(np.testing.assert_array_equal, back, tree)
    w = quant.quantise_rows(jnp.asarray(normal(512, 1024)), "nf4")
    stored = sum(np.asarray(x).nbytes for x in pack(w)["nf4"].values())
    assert stored / 512 / 1024 == pytest.approx(0.516, abs=1e-3)


# ------------------------------------------------------------------------------------------------ over devices


def test_sharded_over_a_mesh_only_codes_are_gathered():
    """Equal results; of the weights' shapes only bytes among the collectives; no float copy of the layers."""
    cfg = DecoderConfig(
        vocab=64, d_model=256, layers=6, heads=4, groups=4, head_dim=64, d_ff=512, remat="full"
    )
    mesh = meshes.make(meshes.MeshConfig(data=1, fsdp=2, tensor=2), jax.devices()[:4])
    ids = jnp.tile(jnp.arange(32)[None], (8, 1))
    init = jax.jit(Decoder(cfg).init)(jax.random.key(1), ids)["params"]
    small = quant.quantise_params(init)
    placed = quant.place(mesh, small)
    code = placed["stack_0"]["mlp"]["up"]["kernel"].code_NFC
    assert code.sharding.shard_shape(code.shape) == (6, 256, 64)  # F over tensor, D/2 over fsdp

    def loss(embed, rest):
        out = Decoder(cfg).apply({"params": {**rest, "embed": embed}}, ids)
        return jnp.square(out.logits).mean()

    step = jax.jit(jax.value_and_grad(loss))
    with meshes.within(mesh):
        compiled = step.lower(placed["embed"], placed).compile()
    got = compiled(placed["embed"], placed)
    want = step(small["embed"], small)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)
    found = re.findall(r"(\w+)\[([\d,]+)\]\S* all-gather\(", compiled.as_text())
    gathered = {(kind, tuple(map(int, size.split(",")))) for kind, size in found}
    assert ("u8", (1, 128, 128)) in gathered  # q, k, v: F / tensor, D / 2
    floats = [size[-2:] for kind, size in gathered if kind.startswith(("f", "bf"))]
    assert not [s for s in floats if min(s) >= 128], floats  # of no kernel, nor of a shard of one
    one_layer = quant.parameters(small["stack_0"]) // 6 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < 3 * one_layer


@pytest.mark.parametrize("kind", quant.KINDS)
@pytest.mark.parametrize("shape", [(2, 128, 24), (64, 8), (100, 6), (1344, 3)])
def test_shapes_of_a_quantised_kernel_are_known_without_it(kind, shape):
    made = quant.quantise(jnp.ones(shape), kind)
    known = quant.quantise(jax.ShapeDtypeStruct(shape, jnp.float32), kind)
    look = lambda tree: jax.tree.map(lambda x: (x.shape, np.dtype(x.dtype)), tree)
    assert jax.tree.leaves(look(made)) == jax.tree.leaves(look(known))
    assert known.shape == made.shape == shape

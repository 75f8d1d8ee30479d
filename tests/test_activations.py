"""Activations on a mesh: laid by rule where there is one, nothing at all where there is none."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_personal as tiny
from jax.sharding import PartitionSpec as P

from jaxrec import delta as deltas
from jaxrec import mesh as meshes
from jaxrec import objectives
from jaxrec.data.history_rows import HistoryRows
from jaxrec.delta import DeltaConfig
from jaxrec.losses import chunked_softmax
from jaxrec.mesh import MeshConfig
from jaxrec.models.items.sequential import SASRec, SASRecConfig
from jaxrec.models.language.tuned_lm import TunedLM
from jaxrec.models.personal.personal_lm import PersonalLM
from jaxrec.nn.decoder import Decoder
from jaxrec.nn.generate import backbone_generator
from jaxrec.nn.sampling import sampling
from jaxrec.objectives.sequential import SequentialLoss
from jaxrec.program import collectives
from jaxrec.replication import replicated
from jaxrec.structs import LFEOutput, Tokens
from jaxrec.training import gradients, optimizer
from jaxrec.training import step as steps

ROWS, LENGTH = 24, 20  # no model below has a size of 24 where its rows are not
DECODER = dataclasses.replace(tiny.DECODER, layers=1, groups=2, d_ff=40, max_positions=64)
OPTIM = optimizer.make(optimizer.OptConfig(lr=1e-2, warmup=1), 10)


@pytest.fixture(scope="module")
def mesh():
    return meshes.make(MeshConfig(data=-1, fsdp=2, tensor=2))


# ------------------------------------------------------------------------------------------ the rule


@pytest.mark.parametrize(
    ("name", "shape", "spec"),
    [
        ("residual", (8, 5, 6), P(("data", "fsdp"), None, None)),
        ("residual", (40, 6), P(("data", "fsdp"), None)),
        ("residual", (6, 5, 6), P(None, None, None)),  # 4 does not divide 6 rows: whole
        ("hidden", (8, 5, 6), P(("data", "fsdp"), None, ("tensor",))),
        ("hidden", (40, 6), P(("data", "fsdp"), ("tensor",))),
        ("heads", (8, 3, 5, 6), P(("data", "fsdp"), None, None, None)),  # 3 heads stay together
        ("cache", (3, 8, 2, 5, 6), P(None, ("data", "fsdp"), ("tensor",), None, None)),
        ("classes", (10, 6), P(("tensor",), None)),
        ("columns", (8, 5, 6), P(("data",), None, ("fsdp",))),
        ("rows", (8,), P(("data", "fsdp"))),
    ],
)
def test_activations_by_name(mesh, name, shape, spec):
    assert meshes.activation_spec(mesh, name, shape) == spec


def test_without_a_mesh_there_is_nothing_in_the_program(mesh):
    program = lambda x: meshes.put(meshes.put_own(x), "residual")
    one = meshes.make(MeshConfig(), jax.devices()[:1])
    others = jax.sharding.AbstractMesh((8,), ("x",))
    nowhere = (contextlib.nullcontext(), jax.sharding.use_abstract_mesh(others))
    for where in (*nowhere, meshes.within(None), meshes.within(one)):
        with where:
            assert jax.make_jaxpr(program)(jnp.ones((8, 2))).eqns == []
            assert meshes.row_parts(8) == 1
    with meshes.within(mesh):
        assert len(jax.make_jaxpr(program)(jnp.ones((8, 2))).eqns) == 2
        assert (meshes.row_parts(8), meshes.row_parts(6)) == (4, 1)
    assert meshes.of({"x": jax.device_put(np.ones(8), meshes.NamedSharding(mesh, P()))}) is mesh
    assert meshes.of({"x": jnp.ones(8), "y": np.ones(8)}) is None


# ----------------------------------------------------------------------- programs, with the rule and without


def both(run):
    """(text, numbers) of a program with the rule, and of the same without."""
    with_rule = run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meshes, "within", lambda mesh: contextlib.nullcontext())
        return with_rule, run()


def slope(mesh, loss, params, *rest):
    """value_and_grad of a loss of (params, *rest): weights lie by their rules, batches by row."""

    def run():
        placed = meshes.place(mesh, params), *(where(mesh, tree) for where, tree in rest)
        with meshes.within(mesh):
            compiled = jax.jit(jax.value_and_grad(loss)).lower(*placed).compile()
        return compiled.as_text(), compiled(*placed)

    return both(run)


def batch(mesh, tree):
    return meshes.place_batch(mesh, tree, ROWS)


def agree(one, other, rtol: float = 1e-5):
    np.testing.assert_allclose(one[0], other[0], rtol=rtol, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), one[1], other[1])


def tokens(length: int = LENGTH) -> Tokens:
    ids = np.random.default_rng(0).integers(16, tiny.VOCAB, (ROWS, length)).astype(np.int32)
    return Tokens(ids, np.ones(ids.shape, bool), np.ones(ids.shape, np.float32))


def test_a_decoder_in_training():
    """The whole step of a stage: two microbatches, tensor parallel; weights and vocabulary learn."""
    mesh = meshes.make(MeshConfig(fsdp=4, tensor=2))
    model = Decoder(dataclasses.replace(DECODER, remat="full"))
    params = tiny.random_like(model.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))

    def run():
        state = steps.init_state(mesh, {"backbone": params["params"]}, OPTIM)
        step = steps.make_step(
            *objectives.sft(TunedLM(model)), OPTIM, state, gradients=gradients.summed(2)
        )
        given = (
            {},
            batch(mesh, tokens()),
            jax.device_put(jax.random.key(0), meshes.replicated(mesh)),
        )
        compiled = step.lower(state, *given).compile()
        state, metrics = compiled(state, *given)
        return compiled.as_text(), (metrics.fetch()["loss"], jax.device_get(state.params))

    (text, numbers), (left_alone, same) = both(run)
    held = lambda text: replicated(text, ROWS // 2, LENGTH, share=DECODER.d_model // 4)
    assert held(text) == []
    assert any("Block" in line.op_name for line in held(left_alone))
    agree(numbers, same)


def test_chunks_of_a_vocabulary_over_devices(mesh):
    """Each device goes through its own rows, three places at a time: gradients are those of one device."""
    rng = np.random.default_rng(3)
    z_BLD = rng.normal(size=(ROWS, 11, 8)).astype(np.float32)
    classes, bias = (rng.normal(size=size).astype(np.float32) for size in ((30, 8), (30,)))
    target = jnp.asarray(rng.integers(0, 30, (ROWS, 11)))
    counts = jnp.asarray(rng.uniform(size=(ROWS, 11)) > 0.4)

    def value(z, classes, bias):
        log_p, best = chunked_softmax.log_probs(z, classes, target, counts, bias, chunk=18)
        return jnp.sum(log_p * jnp.cos(target)), best

    grads = jax.jit(jax.value_and_grad(value, (0, 1, 2), has_aux=True))
    want = grads(z_BLD, classes, bias)
    with meshes.within(mesh):
        program = grads.lower(*meshes.place(mesh, (z_BLD, classes, bias))).compile()
    got = program(*meshes.place(mesh, (z_BLD, classes, bias)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)
    # One piece of four; and the sum of the classes' gradient over rows stands behind the loops.
    assert "f32[18,15]" in program.as_text()
    inside = [c for c in collectives(program.as_text(), {"while": 4}) if c.times > 1]
    assert inside and max(c.sent for c in inside) < 30 * 8 * 4


@pytest.mark.slow
def test_a_personal_head_in_training():
    """Z of a question, each row's Delta by A(p), and the head that learns."""
    mesh = meshes.make(MeshConfig(fsdp=8))
    head = dataclasses.replace(tiny.PERSONAL.head, layers=1)
    enters = DeltaConfig(norm=True, lora_rank=2, lora_sites="q|cross_v")
    lm = PersonalLM(
        Decoder(tiny.DECODER), dataclasses.replace(tiny.PERSONAL, head=head, p_enters=enters)
    )
    # Smaller: at the size that `random_like` gives them, gradients are known to a thousandth in f32.
    small = lambda x: 0.4 * x if x.ndim > 1 else x
    tree = jax.tree.map(small, tiny.random_like(lm.init, jax.random.key(0)))
    normal = lambda *shape: np.random.default_rng(1).normal(size=shape).astype(np.float32)
    z = LFEOutput(normal(ROWS, 18, tiny.D_Z), normal(ROWS, tiny.D_Z), np.ones((ROWS, 18), bool))

    def loss(own, rows):
        context, answer, p_BE = rows
        return -lm.log_probs(own, context, answer, lm.personal(own, p_BE))[0].mean()

    own = {name: tree[name] for name in ("head", "hypernet")}
    rows = z, tokens(), normal(ROWS, tiny.D_P)
    (text, numbers), (left_alone, same) = slope(mesh, loss, own, (batch, rows))
    for length in (19, LENGTH):  # of the memory, of the answer
        assert replicated(text, ROWS, length, share=2) == []
    assert replicated(left_alone, ROWS, LENGTH, share=2)
    agree(numbers, same)


@pytest.mark.slow
def test_a_sequence_model_in_training():
    mesh, items = meshes.make(MeshConfig(fsdp=8)), 50
    draw = lambda most: np.random.default_rng(1).integers(0, most, (ROWS, LENGTH)).astype(np.int32)
    rows = HistoryRows(
        items_BL=draw(items), targets_BL=draw(items) - 5, segments_BL=np.sort(draw(3)) + 1,
        positions_BL=draw(LENGTH), times_BL=None, who_BL=None, negatives_BLJ=None,
    )  # fmt: skip
    cfg = SASRecConfig(items=items, d_model=16, layers=1, d_ff=40, max_length=LENGTH)
    model = SASRec(cfg)
    params = tiny.random_like(model.init, jax.random.key(0), rows)["params"]
    objective = objectives.sequential(model, SequentialLoss("full", chunk=7))
    totals = {"tokens": jnp.float32(400)}
    loss = lambda params, rows: objective.loss(params, None, None, rows, totals, None)[0]
    (text, numbers), (left_alone, same) = slope(mesh, loss, params, (batch, rows))
    assert replicated(text, ROWS, LENGTH) == []
    assert replicated(left_alone, ROWS, LENGTH)
    agree(numbers, same)


def decoding(mesh):
    """(weights with a Delta a row, prompts) of a decoder on the mesh."""
    params = tiny.random_like(
        Decoder(DECODER).init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32)
    )
    spec = DeltaConfig(lora_rank=2, lora_sites="q|v", norm=True, prompt_length=3)
    rng = np.random.default_rng(2)
    normal = lambda x: rng.normal(scale=0.3, size=x.shape).astype(np.float32)
    own = jax.tree.map(normal, deltas.shapes(Decoder.sites(DECODER), spec, ROWS))
    prompts = [rng.integers(16, tiny.VOCAB, 3 + n % 11).tolist() for n in range(ROWS)]
    return meshes.place(mesh, (params["params"], own)), prompts


def test_decoding_with_a_delta_a_row():
    mesh = meshes.make(MeshConfig(fsdp=4, tensor=2))
    model, _ = decoding(mesh)
    ids, mask = tokens(16).ids_BL, np.ones((ROWS, 16), bool)

    def run():
        generator = backbone_generator(DECODER, chunk=16)
        with meshes.within(mesh):
            cache = generator._empty(model, ROWS, 32)
            assert meshes.of(cache) is mesh
            read = generator._read.lower(model, cache, ids, mask, None).compile()
        return read.as_text(), read(model, cache, ids, mask, None)[::-1]

    (text, numbers), (left_alone, same) = both(run)
    for length in (19, 35):  # of a chunk with its soft prompt, of the cache
        assert replicated(text, ROWS, length, share=DECODER.d_model // 4) == []
    assert replicated(left_alone, ROWS, 35, share=DECODER.d_model // 4)
    agree(numbers, same, rtol=1e-4)


@pytest.mark.slow
def test_what_is_decoded_on_a_mesh_is_what_one_device_decodes(mesh):
    one = meshes.make(MeshConfig(), jax.devices()[:1])
    told = []
    for where in (mesh, one):
        model, prompts = decoding(where)
        generator = backbone_generator(DECODER, chunk=16)
        told.append(generator(model, prompts, sampling(ROWS, max_new=8)).ids)
    assert told[0] == told[1]


# ------------------------------------------------------------------------------------------ reading a program

TEXT = """HloModule jit_step, num_partitions=4

%fused (x: f32[24,20,8]) -> f32[6,8] {
  %x = f32[24,20,8]{2,1,0} parameter(0)
  %inside = f32[24,20,8]{2,1,0} negate(%x)
  ROOT %kept = f32[6,8]{1,0} slice(%inside), slice={[0:6], [0:1], [0:8]}
}

ENTRY %main (w: f32[3,24,40], x: f32[6,20,8]) -> f32[6,8] {
  %w = f32[3,24,40]{2,1,0} parameter(0)
  %x.1 = f32[6,20,8]{2,1,0} parameter(1)
  %layer = f32[24,40]{1,0} bitcast(%w)
  %moved = f32[24,40]{1,0} copy(%layer)
  %ids = s32[24,20]{1,0} iota(), iota_dimension=0
  %held = f32[24,20,8]{2,1,0} all-gather(%x.1), dimensions={0}, metadata={op_name="attn/q"}
  %turned = f32[20,24,8]{2,1,0} transpose(%held), dimensions={1,0,2}
  %flat = f32[480,8]{1,0} reshape(%held)
  ROOT %out = f32[6,8]{1,0} fusion(%held), kind=kLoop, calls=%fused
}
"""


def test_what_counts_as_replicated():
    """Not weights of such sizes, not what a fusion keeps to itself, not the ids, which are one number a token."""
    found = replicated(TEXT, 24, 20)
    assert {line.name for line in found} == {"held", "turned", "flat"}
    assert found[0].op_name == "attn/q" and found[0].bytes == 24 * 20 * 8 * 4
    assert replicated(TEXT, 24, 20, share=8) == []
    assert replicated(TEXT, 13, 20) == []

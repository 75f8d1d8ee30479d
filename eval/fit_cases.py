"""What is compiled for a row of fits: the stage's own step with shapes in place of arrays. Nothing is allocated.

Every stage is built of what its script in train/ is built of: the model, its objective, `init_state` and `make_step`;
decoding of `Generator`'s programs. Only the arrays are missing: `jax.ShapeDtypeStruct`s stand for them, each with the
sharding that the rules of `mesh` give it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxrec import delta as deltas
from jaxrec import mesh as meshes
from jaxrec import objectives, quant
from jaxrec.data.history_rows import HistoryRows
from jaxrec.delta import DeltaConfig
from jaxrec.eval.fit_rows import CATALOGUES, D_P, D_Z, HEAD_WIDTH, RANK, SHAPES, SITES, TOP_K, Row
from jaxrec.losses.preference import PreferenceLoss
from jaxrec.models.items.hstu import HSTU, HSTUConfig
from jaxrec.models.items.tiger import LayersConfig, Tiger, TigerConfig
from jaxrec.models.language.tuned_lm import TunedLM
from jaxrec.models.language.value import init_value
from jaxrec.models.personal.heads import GenerativeHead, HeadConfig
from jaxrec.models.personal.inside import cuts_between
from jaxrec.models.personal.lfe import LFE, LFEConfig
from jaxrec.models.personal.personal_lm import PersonalConfig, PersonalLM
from jaxrec.models.personal.profile import Evidence, ProfileEncoder, ProfileEncoderConfig
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.nn.generate import Generator, backbone_generator
from jaxrec.nn.sampling import sampling
from jaxrec.structs import Pairs, Retrofit, Tokens, Turns
from jaxrec.training import gradients, optimizer, step
from jaxrec.training.optimizer import OptConfig
from jaxrec.training.rollout import Rollout

Tree = Any
LORA = DeltaConfig(lora_rank=RANK, lora_alpha=2.0 * RANK, lora_sites="|".join(SITES))
QUESTION, ANSWER, PIECES = 64, 128, 8  # tokens of a question and an answer, pieces of evidence
# The op_names of the loops in losses.chunked_softmax, whose end depends on the data.
CHUNK_LOOPS = ("jvp()/while", "jvp())/while", "/jvp/while")


class Case(NamedTuple):
    """A jitted function and what it is lowered with. `loops`: as of `program.Program.times`."""

    function: Any
    args: tuple
    loops: Mapping[str, int]

    def lower(self, mesh: Mesh) -> Any:
        """Traced and lowered for the mesh."""
        with meshes.within(mesh):
            return self.function.lower(*self.args)


def case(row: Row, mesh: Mesh) -> Case:
    """The row's step on a mesh of real or described devices."""
    return _CASES[row.stage](row, mesh)


# ------------------------------------------------------------------------------------------ parts


def backbone(row: Row, **changes: Any) -> Decoder:
    """The decoder of the row's shape, computing in bf16."""
    shape = SHAPES[row.shape] | {"max_positions": max(row.length, 2048)}
    return Decoder(
        DecoderConfig(**shape, qkv_bias=True, rope_theta=1e6, dtype="bfloat16", remat=row.remat, **changes)
    )  # fmt: skip


def shapes_of(make: Callable[[jax.Array], Tree], *args: Any) -> Tree:
    """What an initialiser of a random key would make."""
    return jax.eval_shape(make, jax.eval_shape(lambda: jax.random.key(0)), *args)


def weights(model: Decoder, mesh: Mesh, kind: str) -> Tree:
    """The backbone's parameters, placed: "f32" to be trained, "bf16" frozen, "nf4" kernels with a bf16 table."""
    params = shapes_of(lambda key: model.init(key, jnp.zeros((1, 2), jnp.int32))["params"])
    if kind == "f32":
        return params
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), params)
    if kind == "nf4":
        params = quant.quantise_params(params, "nf4")
    return quant.place(mesh, params)


def trained(
    row: Row, mesh: Mesh, objective: Any, params: Tree, frozen: Tree, batch: Tree,
    how: gradients.Gradients | None = None,
) -> Case:  # fmt: skip
    """A training step: the state that `make_step` goes on from, what is frozen, a batch and a key."""
    optim = optimizer.make(OptConfig(lr=1e-4, warmup=10), 1000)
    state = step.init_state(mesh, params, optim)
    how = how or gradients.summed(row.accum)
    one = step.make_step(*objective, optim, state, gradients=how)
    rows = jax.tree.leaves(batch)[0].shape[0]
    key = meshes.place(mesh, shapes_of(lambda key: key))
    loops = dict.fromkeys(CHUNK_LOOPS, chunks(row, mesh))
    return Case(one, (state, frozen, meshes.place_batch(mesh, batch, rows), key), loops)


def chunks(row: Row, mesh: Mesh, length: int = 0) -> int:
    """Turns of the softmax's loop over chunks when all positions count."""
    from jaxrec.losses.chunked_softmax import CHUNK

    groups = mesh.shape["data"] * mesh.shape["fsdp"]
    mine = row.rows * (2 if row.stage == "dpo" else 1) // row.accum // groups
    length = length or row.length
    piece = min(max(CHUNK // max(mine, 1), 1), length)
    return -(-length // piece)


def array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    """A shape in place of an array."""
    return jax.ShapeDtypeStruct(shape, dtype)


def tokens(rows: int, length: int) -> Tokens:
    """Token rows, all of whose places may count."""
    one = lambda dtype: array(rows, length, dtype=dtype)
    return Tokens(one(jnp.int32), one(jnp.bool_), one(jnp.float32))


def lora(model: Decoder, rows: int = 1, dtype: Any = jnp.float32) -> Tree:
    """A LoRA that all rows share, or one for each row."""
    delta = shapes_of(lambda key: deltas.init(key, Decoder.sites(model.cfg), LORA))
    return jax.tree.map(lambda x: array(x.shape[0], rows, *x.shape[2:], dtype=dtype), delta)


def by_row(mesh: Mesh, tree: Tree) -> Tree:
    """A Delta of each row's own, leaves [N, B, ...], laid as a batch is; what has no rows is replicated."""
    spec = lambda x: meshes.activation_spec(mesh, "microbatches", x.shape)
    at = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec(x)))
    return jax.tree.map(at, tree)


# ------------------------------------------------------------------------------------------ language models


def sft_lora(row: Row, mesh: Mesh, kind: str = "bf16") -> Case:
    """`train.sft` with the method lora, over frozen weights of a kind."""
    model = backbone(row)
    frozen = {"backbone": weights(model, mesh, kind)}
    batch = tokens(row.rows, row.length)
    return trained(row, mesh, objectives.sft(TunedLM(model)), {"delta": lora(model)}, frozen, batch)


def sft_full(row: Row, mesh: Mesh) -> Case:
    """`train.sft` with the method full."""
    model = backbone(row)
    params = {"backbone": weights(model, mesh, "f32")}
    batch = tokens(row.rows, row.length)
    return trained(row, mesh, objectives.sft(TunedLM(model)), params, {}, batch)


def pretrain(row: Row, mesh: Mesh) -> Case:
    """`train.pretrain`: packed rows."""
    model = backbone(row)
    whole = array(row.rows, row.length, dtype=jnp.int32)
    batch = tokens(row.rows, row.length).replace(segments_BL=whole, positions_BL=whole)
    params = weights(model, mesh, "f32")
    return trained(row, mesh, objectives.pretrain(model), params, {}, batch)


def dpo(row: Row, mesh: Mesh) -> Case:
    """`train.prefer` with DPO and a switched reference."""
    model = backbone(row)
    objective = objectives.prefer(TunedLM(model), PreferenceLoss(), "switched")
    batch = Pairs(tokens(row.rows, row.length), tokens(row.rows, row.length))
    frozen = {"backbone": weights(model, mesh, "bf16")}
    return trained(row, mesh, objective, {"delta": lora(model)}, frozen, batch)


def ppo_update(row: Row, mesh: Mesh) -> Case:
    """An update of `train.ppo` on a minibatch of a rollout."""
    model = backbone(row)
    loss = objectives.PpoLoss(since=row.length // 2 - 1)
    params = {"delta": lora(model), "value": shapes_of(lambda _: init_value(model.cfg.d_model))}
    each, one = array(row.rows, row.length), array(row.rows)
    batch = Rollout(tokens(row.rows, row.length), *[each] * 5, one, {"reward": one})
    frozen = {"backbone": weights(model, mesh, "bf16")}
    return trained(row, mesh, objectives.ppo(TunedLM(model), loss), params, frozen, batch)


# ------------------------------------------------------------------------------------------ personal models


def retrofit(row: Row, mesh: Mesh) -> Case:
    """`train.retrofit`: contexts of half a row, continuations of the other half; the backbone teaches itself."""
    model, half = backbone(row), row.length // 2
    reader = HeadConfig(
        model.cfg.vocab,
        D_Z,
        1,
        4,
        2 * D_Z,
        D_Z,
        tied_to_backbone=True,
        d_backbone=model.cfg.d_model,
    )
    lfe = LFEConfig(d_z=D_Z, top_k=TOP_K)
    parts = objectives.RetrofitParts(model, model, LFE(lfe), GenerativeHead(reader))
    params = shapes_of(lambda key: objectives.retrofit_params(key, parts, topics=8))
    own = weights(model, mesh, "bf16")
    rows, one = tokens(row.rows, half), array(row.rows, dtype=jnp.int32)
    batch = Retrofit(rows, rows, rows, rows, rows, rows, one, one)
    frozen, how = {"backbone": own, "teacher": own}, gradients.spanning(row.accum)
    return trained(row, mesh, objectives.retrofit(parts), params, frozen, batch, how)


def universal(row: Row, mesh: Mesh, person: str = "head") -> Case:
    """`train.universal`: turns of `row.length` tokens, half question and half answer."""
    lm, own = personal(row, mesh, person)
    encoder = ProfileEncoder(ProfileEncoderConfig(d_z=D_Z, d_p=D_P))
    params = shapes_of(
        lambda key, own: objectives.universal_params(key, lm, encoder, own), own["backbone"]
    )
    half = tokens(row.rows, row.length // 2)
    vectors = lambda dtype: array(row.rows, PIECES, dtype=dtype)
    evidence = Evidence(
        array(row.rows, PIECES, D_Z), vectors(jnp.int32), vectors(jnp.float32), vectors(jnp.bool_)
    )
    batch = Turns(half, half, array(row.rows, dtype=jnp.int32), evidence)
    how = gradients.spanning(row.accum)
    return trained(row, mesh, objectives.universal(lm, encoder), params, own, batch, how)


def personal(row: Row, mesh: Mesh, person: str) -> tuple[PersonalLM, Tree]:
    """A personal model over the backbone, and what of it is frozen: the backbone and its LFE."""
    model = backbone(row)
    if person == "backbone":
        model = Decoder(dataclasses.replace(model.cfg, cuts=cuts_between((), model.cfg)))
    cfg, width = model.cfg, min(HEAD_WIDTH, model.cfg.d_model)
    head = HeadConfig(
        cfg.vocab, width, 2, 8, 3 * width, D_Z, tied_to_backbone=True, d_backbone=cfg.d_model
    )
    lm = PersonalLM(
        model,
        PersonalConfig(
            LFEConfig(d_z=D_Z, top_k=TOP_K), head, d_p=D_P, hyper_width=128, person=person
        ),
    )
    lfe = shapes_of(lambda key: lm.init(key)["lfe"])
    return lm, {"backbone": weights(model, mesh, "bf16"), "lfe": meshes.place(mesh, lfe)}


# ------------------------------------------------------------------------------------------ decoding


def decode(row: Row, mesh: Mesh, own: bool = True) -> Case:
    """A token of `Generator`, each row with a LoRA of its own, or all with one."""
    model = backbone(row)
    # As a bank of adapters is kept for serving, in bf16; a policy that learns has its one in f32.
    delta = lora(model, row.rows, jnp.bfloat16) if own else lora(model)
    delta = by_row(mesh, delta) if own else meshes.place(mesh, delta)
    loaded = (weights(model, mesh, "bf16"), delta)
    return _token(backbone_generator(model.cfg), loaded, row, mesh)


def decode_person(row: Row, mesh: Mesh) -> Case:
    """A token of `Answering`'s generator, the person inside the backbone; the turn's Delta is made already."""
    lm, own = personal(row, mesh, "backbone")
    params = {
        **own,
        "hypernet": meshes.place(mesh, shapes_of(lambda key: lm.init(key)["hypernet"])),
    }
    question, p_BE = tokens(row.rows, QUESTION), array(row.rows, D_P)
    turn = jax.eval_shape(lm.turn, params, question, p_BE)
    turn = by_row(mesh, turn)
    generator = Generator(
        lambda loaded, reading: lm.step(*loaded, reading),
        lambda loaded, batch, slots: lm.new_cache(batch, slots),
        limit=lm.backbone.cfg.max_positions,
    )
    return _token(generator, (params, turn), row, mesh)


def _token(generator: Generator, loaded: Tree, row: Row, mesh: Mesh) -> Case:
    how = sampling(row.rows, max_new=ANSWER)
    function, args = generator.advancing(mesh, loaded, row.rows, row.length, how)
    return Case(function, args, {"while": 1})


# ------------------------------------------------------------------------------------------ recommenders


def hstu(row: Row, mesh: Mesh) -> Case:
    """`train.sequential` with HSTU and the softmax over all items, whole histories a row."""
    model = HSTU(HSTUConfig(**CATALOGUES[row.shape], max_length=row.length))
    whole = array(row.rows, row.length, dtype=jnp.int32)
    batch = HistoryRows(whole, whole, whole, whole, whole, whole)
    first = jax.tree.map(lambda x: np.zeros((1, row.length), np.int32), batch)
    params = shapes_of(lambda key: model.init(key, first)["params"])
    how = objectives.SequentialLoss(kind="full")
    return trained(row, mesh, objectives.sequential(model, how), params, None, batch)


def tiger(row: Row, mesh: Mesh) -> Case:
    """`train.generative_rec` with the encoder-decoder over three codes of 256."""
    shape = dict(CATALOGUES[row.shape])
    items = shape.pop("items")
    layers = LayersConfig(**shape, d_ff=4 * shape["d_model"], dropout=0.1)
    model = Tiger(TigerConfig(sizes=(256, 256, 256), layers=layers))
    code = jnp.zeros((1, 2, 3), jnp.int32)
    asked = (code, jnp.ones((1, 2), bool), jnp.zeros(1, jnp.int32), code[:, 0])
    params = shapes_of(lambda key: model.init(key, *asked)["params"])
    one = array(row.rows, dtype=jnp.int32)
    batch = {"items": array(row.rows, row.length, dtype=jnp.int32), "target": one, "user": one}
    frozen = {"codes": meshes.place(mesh, array(items, 3, dtype=jnp.int32))}
    return trained(row, mesh, objectives.tiger(model), params, frozen, batch)


_CASES: Mapping[str, Callable[[Row, Mesh], Case]] = {
    "sft_lora": sft_lora,
    "sft_nf4": lambda row, mesh: sft_lora(row, mesh, "nf4"),
    "sft_full": sft_full,
    "pretrain": pretrain,
    "dpo": dpo,
    "ppo_update": ppo_update,
    "ppo_rollout": lambda row, mesh: decode(row, mesh, own=False),
    "retrofit": retrofit,
    "universal": universal,
    "universal_inside": lambda row, mesh: universal(row, mesh, "backbone"),
    "decode_lora": decode,
    "decode_person": decode_person,
    "hstu": hstu,
    "tiger": tiger,
}

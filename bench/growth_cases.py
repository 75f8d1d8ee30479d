"""What is timed at a point of an axis: the real step, built of the sizes that `growth_paper.Sizes` names.

A case builds everything its step reads, parameters and optimiser included, and may do so several times: the compiled
programs are kept beside it, so that memory can be measured without the compiler's.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.growth_paper import (
    AXES,
    HEAD_LAYERS,
    LFE_LAYERS,
    LORA_OF_P,
    NEW,
    PROMPT,
    SAS_ROW,
    Sizes,
    deepmf,
    sasrec,
    search,
    sft,
    sizes_at,
    turn,
)
from jaxrec import delta as deltas
from jaxrec import mesh as meshes
from jaxrec import objectives
from jaxrec.data.history_rows import HistoryRows
from jaxrec.delta import DeltaConfig
from jaxrec.models.items import deepmf as mf
from jaxrec.models.items.sequential import SASRec, SASRecConfig
from jaxrec.models.language.tuned_lm import TunedLM
from jaxrec.models.personal.heads import HeadConfig
from jaxrec.models.personal.lfe import LFEConfig
from jaxrec.models.personal.personal_lm import PersonalConfig, PersonalLM
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.nn.generate import Generator
from jaxrec.nn.sampling import sampling
from jaxrec.objectives.sequential import SequentialLoss, sequential
from jaxrec.recommenders.deepmf import DeepMFConfig
from jaxrec.recommenders.sequential import SequentialConfig
from jaxrec.retrieval.device_top_k import DeviceTopK
from jaxrec.structs import Tokens
from jaxrec.training import optimizer
from jaxrec.training.optimizer import OptConfig
from jaxrec.training.step import init_state, make_step

ADAM = OptConfig(lr=1e-4, schedule="constant", b2=0.999, clip=0.0)
STEPS = 1_000_000  # that the optimiser's schedule believes in


@dataclasses.dataclass(frozen=True)
class Case:
    """`build()` gives a state; `step(state)` gives the next and waits until it is there. `updates`: steps in a call."""

    build: Callable[[], Any]
    step: Callable[[Any], Any]
    updates: int = 1
    counted: Callable[[], float] | None = None  # operations of a training step, as XLA counts them


def case(axis: str, value: int, sizes: Sizes) -> Case:
    """The case of one point."""
    make = {sft: sft_case, turn: turn_case, sasrec: sasrec_case, deepmf: deepmf_case}
    make[search] = search_case
    return make[AXES[axis].cost](sizes_at(axis, value, sizes))


def decoder(s: Sizes, **more: Any) -> DecoderConfig:
    """The small Llama."""
    return DecoderConfig(
        vocab=s.vocabulary, d_model=s.width, layers=s.layers, heads=s.heads, groups=s.groups,
        head_dim=s.head_dim, d_ff=s.inner, max_positions=max(1024, s.length), **more,
    )  # fmt: skip


def drawn(init: Callable[[], Any], seed: int) -> Any:
    """Small random numbers in the shapes of what `init()` would give: nothing to compile, and time is the same."""
    rng = np.random.default_rng(seed)
    make = lambda x: 0.02 * rng.standard_normal(x.shape, x.dtype)
    return jax.tree.map(make, jax.eval_shape(init))


def backbone(cfg: DecoderConfig) -> Any:
    """Parameters of the decoder."""
    ids = jnp.zeros((1, 2), jnp.int32)
    return drawn(lambda: Decoder(cfg).init(jax.random.key(0), ids), 0)["params"]


def trained(
    objective: Any, params: Callable[[], Any], rest: Callable[[], Any], *,
    opt: OptConfig = ADAM, updates: int = 1, tables: Any = None,
) -> Case:  # fmt: skip
    """The one training step; `params()` learn, `rest()` is (frozen, batch) as they lie on the device."""
    mesh = meshes.make(devices=jax.devices()[:1])
    adam, key, made = optimizer.make(opt, STEPS), jax.random.key(0), []

    def build() -> Any:
        held = init_state(mesh, params(), adam, tables=tables), *meshes.place(mesh, rest())
        return jax.block_until_ready(held)

    def program(state: Any) -> Any:
        if not made:  # the layout of a first state is asked for
            made.append(make_step(*objective, adam, state, tables=tables, updates=updates))
        return made[0]

    def step(held: Any) -> Any:
        state, frozen, batch = held
        state, metrics = program(state)(state, frozen, batch, key)
        metrics.fetch()
        return state, frozen, batch

    def counted() -> float:
        held = build()
        return program(held[0]).lower(*held, key).cost_analysis()["flops"]

    return Case(build, step, updates, counted)


def sft_case(s: Sizes) -> Case:
    """A LoRA on all seven matrices, learned on rows of which every token counts."""
    cfg = decoder(s)
    spec = DeltaConfig(lora_rank=s.rank, lora_alpha=2.0 * s.rank)
    lora = lambda: deltas.init(jax.random.key(1), Decoder.sites(cfg), spec)

    def rest() -> Any:
        shape = (s.batch, s.length)
        ids = np.random.default_rng(0).integers(4, s.vocabulary, shape).astype(np.int32)
        rows = Tokens(ids, np.ones(shape, bool), np.ones(shape, np.float32))
        return {"backbone": backbone(cfg)}, rows

    return trained(objectives.sft(TunedLM(Decoder(cfg))), lambda: {"delta": drawn(lora, 1)}, rest)


def turn_case(s: Sizes) -> Case:
    """Turns of tenants drawn anew each time: the backbone reads, A(p) makes LoRA and norms, the head decodes."""
    cfg = decoder(s)
    lm = PersonalLM(
        Decoder(cfg),
        PersonalConfig(
            lfe=LFEConfig(d_z=s.width, top_k=min(LFE_LAYERS, s.layers)),
            head=HeadConfig(s.vocabulary, s.width, HEAD_LAYERS, s.heads, s.inner, s.width),
            p_enters=DeltaConfig(embed=True, norm=True, lora_rank=LORA_OF_P),
            d_p=s.p_width,
        ),
    )
    rng = np.random.default_rng(0)
    ids = rng.integers(4, s.vocabulary, (s.rows, PROMPT)).astype(np.int32)
    question = Tokens(ids, np.ones(ids.shape, bool))
    generator = Generator(
        lambda weights, reading: lm.step(*weights),
        lambda weights, rows, slots: lm.new_cache(rows, slots),
        limit=1 + NEW,
    )
    how, start = sampling(s.rows, max_new=NEW), [[1]] * s.rows

    @jax.jit
    def begin(params: Any, people_UE: Any, tenant_B: Any, question: Tokens) -> Any:
        return lm.turn(params, lm.encode(params, question), people_UE[tenant_B])

    def build() -> Any:
        own = drawn(lambda: lm.init(jax.random.key(0)), 1)
        people = rng.standard_normal((s.tenants, s.p_width), np.float32)
        return jax.block_until_ready(jax.device_put((own | {"backbone": backbone(cfg)}, people)))

    def step(held: Any) -> Any:
        params, people_UE = held
        tenants = rng.integers(0, s.tenants, s.rows, dtype=np.int32)
        generator((params, begin(params, people_UE, tenants, question)), start, how)
        return held

    return Case(build, step)


def sasrec_case(s: Sizes) -> Case:
    """Full cross-entropy on packed rows without padding, dense Adam over the catalogue's table."""
    how = SequentialConfig()
    model = SASRec(SASRecConfig(items=s.items))
    length = model.cfg.max_length

    def rows() -> HistoryRows:
        shape = (max(1, s.positions // SAS_ROW), SAS_ROW)
        at = np.broadcast_to(np.arange(SAS_ROW, dtype=np.int32), shape)
        rng = np.random.default_rng(0)
        taken = lambda: rng.integers(0, s.items, shape, dtype=np.int32)
        return HistoryRows(taken(), taken(), 1 + at // length, at % length, at // length)

    init = lambda: model.init(jax.random.key(0), rows())["params"]
    return trained(
        sequential(model, SequentialLoss("full")), lambda: drawn(init, 1), lambda: (None, rows()),
        opt=how.opt,
    )  # fmt: skip


def deepmf_case(s: Sizes) -> Case:
    """Ratings of people and items drawn uniformly; the specified model, several updates a call, as `fit` makes."""
    how = DeepMFConfig()
    init = lambda: mf.init(jax.random.key(0), how.shape, s.table, s.table, mean=3.0)
    count = s.ratings * how.fit.updates

    def rest() -> Any:
        rng = np.random.default_rng(0)
        people, items = rng.integers(0, s.reach or s.table, (2, count), dtype=np.int32)
        return None, mf.Ratings(people, items, rng.uniform(1, 5, count).astype(np.float32))

    return trained(
        objectives.deepmf(how.shape), lambda: drawn(init, 1), rest, opt=how.fit.opt, updates=how.fit.updates,
        tables=objectives.deepmf_tables(),
    )  # fmt: skip


def search_case(s: Sizes) -> Case:
    """The 30 nearest of one query."""
    rng = np.random.default_rng(0)
    query = rng.standard_normal((1, s.vector_width), np.float32)

    def step(index: DeviceTopK) -> DeviceTopK:
        index.search(query, 30)
        return index

    def build() -> (
        DeviceTopK
    ):  # a search waits until the vectors have been copied and their source is let go
        return step(DeviceTopK(rng.random((s.vectors, s.vector_width), np.float32)))

    return Case(build, step)

"""A tiny decoder that learns from a planted reward: the part of its text that is one token. For the PPO tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import delta as deltas
from jaxrec import mesh as meshes
from jaxrec.delta import DeltaConfig
from jaxrec.dialogue.prompts import Generation
from jaxrec.models.language.tuned_lm import TunedLM
from jaxrec.models.language.value import init_value
from jaxrec.models.language.writing import Writer, decoder_writer, prompt_rows, written_ids
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.objectives.ppo import GrpoLoss, PpoLoss, assess_grpo, assess_ppo, drift, grpo, ppo
from jaxrec.structs import Tokens
from jaxrec.training import gradients, loop, optimizer
from jaxrec.training import step as steps
from jaxrec.training.rollout import KlConfig, Playout, RolloutConfig, RolloutSource

PLANTED, EOS, PROMPT, NEW = 7, 2, 4, 8
CFG = DecoderConfig(
    vocab=24, d_model=16, layers=1, heads=2, groups=2, head_dim=8, d_ff=24, max_positions=32,
    init_std=0.2,
)  # fmt: skip
PROMPTS = [[1, 5, 6], [1, 9], [1, 11, 12, 13], [1, 3, 4], [1, 8, 20]]
LOSSES = {
    "ppo": PpoLoss(since=PROMPT - 1),
    "grpo": GrpoLoss(group=4, max_new=NEW, since=PROMPT - 1),
}
GROUPS = {"ppo": 1, "grpo": 4}


@functools.cache
def start() -> dict:
    """Backbone (frozen), a LoRA and a value head."""

    def make(key):
        ids = jnp.zeros((1, 2), jnp.int32)
        spec = DeltaConfig(lora_rank=4, head_rank=4)
        return {
            "backbone": Decoder(CFG).init(key, ids)["params"],
            "delta": deltas.init(key, Decoder.sites(CFG), spec),
            "value": init_value(CFG.d_model),
        }

    return jax.tree.map(np.asarray, jax.jit(make)(jax.random.key(0)))


@functools.cache
def writer() -> Writer:
    how = Generation(max_new=NEW, temperature=1.0, top_p=1.0, repetition=1.0, stop=())
    return decoder_writer(CFG, how, eos=[EOS], text_of=str, longest=PROMPT)


@functools.cache
def programs(variant: str):
    """(assess, drift), compiled once for all tests of a process."""
    lm = TunedLM(Decoder(CFG))
    assess = {"ppo": assess_ppo, "grpo": assess_grpo}[variant]
    return jax.jit(assess(lm, LOSSES[variant])), jax.jit(drift(lm, LOSSES[variant]))


def play(frozen, params, index_R, seed) -> Playout:
    """Texts of at most NEW tokens, worth the part of NEW that is PLANTED."""
    prompts = [PROMPTS[i] for i in index_R]
    said = written_ids(writer()({**frozen, **params}, prompts, seed))
    reward = np.array([row.count(PLANTED) / NEW for row in said], np.float32)
    return Playout(rows_of(prompts, said), reward, {"length": lengths(said)})


def lengths(said) -> np.ndarray:
    return np.array([len(row) for row in said], np.float32)


def rows_of(prompts, said) -> Tokens:
    return prompt_rows(prompts, said, PROMPT, PROMPT + NEW)


def source(variant: str, frozen, rows: int = 16, **changes) -> RolloutSource:
    kl = changes.pop("kl", KlConfig(coef=0.02, target=2.0, horizon=500.0))
    given = {"rows": rows, "group": GROUPS[variant], "epochs": 2, "minibatches": 2, "kl": kl}
    config = RolloutConfig(**{**given, **{k: v for k, v in changes.items() if k != "report"}})
    assess, moved = programs(variant)
    blank = [[0] * NEW] * rows
    like = Playout(rows_of([[1]] * rows, blank), np.zeros(rows), {"length": lengths(blank)})
    return RolloutSource(
        config,
        len(PROMPTS),
        lambda params, index, seed: play(frozen, params, index, seed),
        lambda params, *rest: assess(params, frozen, *rest),
        like,
        PROMPT + NEW,
        drift=lambda params, batch: moved(params, frozen, batch),
        report=changes.get("report"),
    )


def train(
    variant: str, out, *, steps_: int, mesh=None, accum=1, lr=1e-2, rollout=None, **options
) -> loop.FitResult:
    """`steps_` updates through `loop.fit`."""
    mesh = mesh or meshes.make(meshes.MeshConfig(), jax.devices()[:1])
    tree = start()
    frozen = meshes.place(mesh, {"backbone": tree["backbone"]})
    params = {"delta": tree["delta"]} | ({"value": tree["value"]} if variant == "ppo" else {})
    data = source(variant, frozen, **(rollout or {}))
    opt = optimizer.make(optimizer.OptConfig(lr=lr, schedule="constant"), steps_)
    state = steps.init_state(mesh, params, opt, source=data.init())
    one = step_of(variant, opt, state, accum)
    config = loop.LoopConfig(steps=steps_, progress=False, log_every=1, **options)
    return loop.fit(
        one, state, data, config=config, mesh=mesh, rows=data.config.batch, out=out, frozen=frozen
    )


def step_of(variant: str, opt, state, accum: int = 1):
    objective = {"ppo": ppo, "grpo": grpo}[variant](TunedLM(Decoder(CFG)), LOSSES[variant])
    return steps.make_step(*objective, opt, state, gradients=gradients.summed(accum))

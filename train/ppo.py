"""Reinforcement learning of a language model from a reward: PPO with a value head, or GRPO without one.

    python -m train.ppo configs/language/genrec_ppo.py
    python -m train.ppo configs/language/ppo_grpo.py
    python -m train.ppo configs/language/genrec_ppo.py --reward my_package.rewards:brevity

Starts from a model and, where given, an adapter, which then is the reference that straying from has a price. Writes
OUT/adapter (or OUT/model, where the backbone itself was trained), OUT/rollouts.jsonl (a line a rollout: the reward and
each part of it, signs of gaming, KL, lengths), OUT/reward.png (their curves), OUT/samples.jsonl (texts to held-out
prompts before, during and after), and OUT/metrics.jsonl with the loss's numbers and `held_reward`.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from jaxrec import config, elastic, mesh, objectives, processes, results
from jaxrec import delta as deltas
from jaxrec.config import RunError
from jaxrec.delta import DeltaConfig
from jaxrec.dialogue.prompts import Generation
from jaxrec.mesh import MeshConfig
from jaxrec.models.language.tuned_folder import Tuned, load_tuned, save_stage
from jaxrec.models.language.value import init_value
from jaxrec.objectives.player import Player
from jaxrec.objectives.ppo import GrpoLoss, PpoLoss, assess_grpo, assess_ppo, drift
from jaxrec.processes import HostsConfig
from jaxrec.rewards.reward import by_name
from jaxrec.rewards.rewarded_prompts import Prompt, read_prompts
from jaxrec.training import gradients, tuning
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig
from jaxrec.training.rollout import KlConfig, RolloutConfig, RolloutSource
from jaxrec.training.rollout_record import RolloutRecord, write_samples


@dataclasses.dataclass(frozen=True)
class PpoConfig:
    """A run of PPO or GRPO. The defaults are GenRec's: 50 episodes of 32 prompts, 60 new tokens."""

    base: str = "runs/sample/backbone/model"  # a folder, GGUF file, name ("smollm2") or hub id; or an adapter's folder
    adapter: str = ""  # where the policy starts, and what its KL is measured against
    prompts: str = (
        ""  # a .jsonl[.gz]: rows with "prompt", and "rating", "persona", "title" where known
    )
    variant: Literal["ppo", "grpo"] = "ppo"
    reward: str = "genrec"  # or "genrec-guarded", or package.module:callable
    generation: Generation = Generation()
    longest: int = 256  # tokens; a longer prompt is left out, and counted
    hold_out_every: int = 10  # each so-many-th prompt is kept for `held_reward`
    plain: bool = False  # no chat template (an adapter says for itself how it was trained)
    method: str = "lora"  # the Delta where there is no adapter; "full" trains the backbone
    delta: DeltaConfig = DeltaConfig()  # sizes of one's own
    quantise: Literal["", "nf4", "int8"] = ""
    dtype: Literal["float32", "bfloat16"] = "float32"
    episodes: int = 50  # rollouts, when none is cut short by `rollout.target_kl`: its updates go to further ones
    rollout: RolloutConfig = RolloutConfig(rows=32, epochs=4, minibatches=2, kl=KlConfig(0.05))
    ppo: PpoLoss = PpoLoss()  # the temperature is that of `generation`
    grpo: GrpoLoss = (
        GrpoLoss()
    )  # group, max_new and what can be spared follow from the other settings
    merged: bool = False  # write with the Delta folded into a copy of the weights: faster (LoRA and IA3, not quantised)
    accum: int = 1
    opt: OptConfig = OptConfig(lr=3e-4, schedule="constant")
    loop: LoopConfig = LoopConfig(  # `steps` follows from the episodes
        steps=0, log_every=1, eval_every=40, save_every=40, monitor="held_reward", mode="max"
    )
    samples: int = 8  # texts written down at each evaluation
    mesh: MeshConfig = MeshConfig()
    hosts: HostsConfig = HostsConfig()
    out: str = "runs/ppo"


class PpoError(RunError, ValueError):
    """Settings that contradict each other."""


def main(cfg: PpoConfig) -> dict[str, float]:
    """Trains and saves; gives `held_reward` before and after, and the best of the run."""
    check(cfg)
    processes.start(cfg.hosts)
    devices, accum = elastic.arrange(cfg.mesh, cfg.rollout.batch, cfg.accum, cfg.out)
    reward = by_name(cfg.reward)  # before the model is read: a misspelt name is said at once
    tuned = start(cfg, devices)
    train, held = prompts_of(cfg, tuned)
    trained, frozen = parts(cfg, tuned)
    frozen = mesh.settle(devices, frozen)
    player = Player(tuned, reward, frozen, [*train, *held], cfg.generation, cfg.merged)
    record = RolloutRecord(Path(cfg.out))
    source = source_of(cfg, tuned, player, train, frozen, devices, record)

    steps = cfg.episodes * cfg.rollout.updates
    objective = objectives.ppo if cfg.variant == "ppo" else objectives.grpo

    def evaluate(params: Any, at: int) -> dict[str, float]:
        played, samples = player.play(params, _repeated(held, cfg.rollout.rows), seed=0)
        count = min(len(held), cfg.rollout.rows)
        write_samples(Path(cfg.out) / "samples.jsonl", at, samples[: min(count, cfg.samples)])
        return {f"held_{name}": float(x[:count].mean()) for name, x in played.told.items()}

    trained = mesh.place(devices, trained)
    before = evaluate(trained, 0)
    fitted = tuning.tune(
        objective(tuned.lm, loss_of(cfg, player.longest)), trained, source, opt=cfg.opt,
        config=dataclasses.replace(cfg.loop, steps=steps), mesh=devices, rows=cfg.rollout.batch,
        out=cfg.out, frozen=frozen, gradients=gradients.summed(accum), evaluate=evaluate,
        resolved=cfg, title=cfg.variant,
    )  # fmt: skip
    after = evaluate(fitted.state.params, steps)
    record.draw(f"{cfg.variant.upper()}: {cfg.reward}")
    facts = {"stage": cfg.variant, "before": before, "after": after}
    plain = cfg.plain or bool(tuned.facts.get("plain", False))
    own = fitted.state.params
    _, written = save_stage(
        cfg.out, tuned, own, backbone="backbone" in own, facts=facts, plain=plain
    )
    result = {"held_reward_before": before["held_reward"], "held_reward": after["held_reward"]}
    print(", ".join(f"{name} {value:.3f}" for name, value in result.items()), flush=True)
    ask = ("jaxrec", "eval", "text", "--model", written[0], "--data", "HELD.jsonl")
    results.conclude(written, ask)
    return {**result, "best": fitted.value, "rollouts": int(fitted.state.source["rollouts"])}


def check(cfg: PpoConfig) -> None:
    """Raises PpoError for settings that contradict each other, before anything is loaded."""
    if jax.process_count() > 1:
        raise PpoError("rollouts are played in one process; start this stage on one host")
    if cfg.loop.steps:
        raise PpoError("loop.steps follows from `episodes`: leave it at 0")
    if cfg.generation.temperature <= 0:
        raise PpoError(
            "a policy that always says the most probable token explores nothing: set a temperature"
        )
    if cfg.variant == "grpo" and cfg.rollout.group < 2:
        raise PpoError("GRPO compares texts to the same prompt: rollout.group must be 2 or more")
    if cfg.method == "full" and cfg.delta.empty and not cfg.adapter and cfg.quantise:
        raise PpoError(
            f"a {cfg.quantise} backbone has no gradient: choose an adapter (--method lora)"
        )
    if cfg.episodes < 1 or not cfg.prompts:
        raise PpoError("say which `prompts` (a .jsonl file), and how many `episodes`")


def loss_of(cfg: PpoConfig, longest: int) -> PpoLoss | GrpoLoss:
    """The loss's settings, with those that follow from the rollout's."""
    warm = cfg.generation.temperature
    if cfg.variant == "ppo":
        return dataclasses.replace(cfg.ppo, temperature=warm, since=longest - 1)
    return dataclasses.replace(
        cfg.grpo,
        temperature=warm,
        group=cfg.rollout.group,
        max_new=cfg.generation.max_new,
        since=longest - 1,
        on_policy=cfg.rollout.updates == 1 and not cfg.rollout.kl.adaptive,
        reference=cfg.rollout.kl.coef > 0,
    )


def start(cfg: PpoConfig, devices: jax.sharding.Mesh) -> Tuned:
    """The model with the Delta that is to be trained (none for the method "full")."""
    tuned = load_tuned(
        cfg.base, cfg.adapter, devices=devices, quantise=cfg.quantise, plain=cfg.plain or None,
        dtype=cfg.dtype,
    )  # fmt: skip
    if "delta" in tuned.tree:
        return tuned
    return tuned.with_delta(deltas.choose(cfg.method, cfg.delta), cfg.loop.seed, devices)


def parts(cfg: PpoConfig, tuned: Tuned) -> tuple[Any, Any]:
    """(what trains, what stays frozen). A policy that does not start as the bare base leaves a copy of its start in
    frozen["start"], the reference; a Delta that starts as the identity needs none."""
    tree = {name: part for name, part in tuned.tree.items() if name in ("backbone", "delta")}
    name = "delta" if "delta" in tree else "backbone"
    trained = {name: tree.pop(name)}
    if name == "backbone" or tuned.facts:
        tree["start"] = {name: trained[name]}
    if cfg.variant == "ppo":
        trained["value"] = tuned.tree.get("value") or init_value(tuned.cfg.d_model)
    return trained, tree


def prompts_of(cfg: PpoConfig, tuned: Tuned) -> tuple[list[Prompt], list[Prompt]]:
    """(prompts to learn from, held-out ones); what was left out is printed."""
    room = min(cfg.longest, tuned.cfg.max_positions - cfg.generation.max_new)
    found, skipped = read_prompts(cfg.prompts, tuned.chat, room)
    tuning.say(cfg.prompts, skipped)
    every = cfg.hold_out_every
    held = [p for i, p in enumerate(found) if every and i % every == every - 1]
    train = [p for i, p in enumerate(found) if not every or i % every != every - 1]
    return train, held or train


def source_of(
    cfg: PpoConfig,
    tuned: Tuned,
    player: Player,
    prompts: list[Prompt],
    frozen: Any,
    devices: jax.sharding.Mesh,
    record: RolloutRecord,
) -> RolloutSource:
    """The rollouts, their programs compiled once."""
    loss, c = loss_of(cfg, player.longest), cfg.rollout
    assess = jax.jit((assess_ppo if cfg.variant == "ppo" else assess_grpo)(tuned.lm, loss))
    moved = jax.jit(drift(tuned.lm, loss))
    placed = lambda batch, rows: mesh.place_batch(devices, batch, rows)
    return RolloutSource(
        c,
        len(prompts),
        lambda params, index, seed: player.play(params, [prompts[i] for i in index], seed)[0],
        lambda params, said, reward, coef: assess(
            params, frozen, *placed((said, reward), c.rows), np.float32(coef)
        ),
        player.like(c.rows),
        player.width,
        drift=lambda params, batch: moved(params, frozen, placed(batch, c.batch)),
        report=record.add,
        tells_kl=cfg.variant == "ppo" or (loss.reference and not loss.on_policy),
        prompts=[np.asarray(one.ids) for one in prompts],
    )


def _repeated(prompts: list[Prompt], count: int) -> list[Prompt]:
    """`count` prompts, so that evaluation and rollouts share their programs."""
    return [prompts[i % len(prompts)] for i in range(count)]


if __name__ == "__main__":
    config.run(main, PpoConfig, __doc__)

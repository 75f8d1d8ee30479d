"""PPO and GRPO as a stage: the objectives' identities, and train.ppo from a folder to an adapter, on a tiny model."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_rewarded as tiny

from jaxrec import hub, mesh
from jaxrec.config import RunError
from jaxrec.data.text import train_tokenizer
from jaxrec.delta import DeltaConfig
from jaxrec.dialogue.prompts import Generation
from jaxrec.losses import policy_gradient as pg
from jaxrec.models.language.tuned_folder import load_tuned
from jaxrec.models.language.tuned_lm import TunedLM
from jaxrec.models.language.writing import decoder_writer
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.objectives.ppo import assess_grpo, grpo
from jaxrec.rewards.reward import RewardError, Score
from jaxrec.train import ppo
from jaxrec.training import optimizer
from jaxrec.training import step as steps
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig
from jaxrec.training.rollout import KlConfig, RolloutConfig

make_mesh = mesh.make
CFG = DecoderConfig(
    vocab=300, d_model=32, layers=2, heads=2, groups=1, head_dim=16, d_ff=48, max_positions=64,
    tied=True, init_std=0.2,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quickly():
    """Compiling is what takes the time here."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


# --------------------------------------------------------------------------------------------- objectives


def first_batch(variant: str):
    """(trained, frozen, a minibatch of the first rollout)."""
    tree = tiny.start()
    trained = {"delta": tree["delta"]} | ({"value": tree["value"]} if variant == "ppo" else {})
    # a policy that has moved already, so that nothing is zero
    moved = lambda x: x + 0.3 * np.random.default_rng(x.size).normal(size=x.shape).astype(x.dtype)
    trained = jax.tree.map(moved, trained)
    frozen = {"backbone": tree["backbone"]}
    source = tiny.source(variant, frozen, minibatches=1)
    batch, _ = source(0, trained, source.init())
    return trained, frozen, batch


def updated(variant: str, trained, frozen, batch, accum: int, devices: jax.sharding.Mesh | None):
    """(parameters after one step, its metrics)."""
    at = devices or make_mesh(mesh.MeshConfig(), jax.devices()[:1])
    opt = optimizer.make(optimizer.OptConfig(kind="sgd", b1=0.0, lr=0.1, schedule="constant"), 9)
    state = steps.init_state(at, trained, opt)
    one = tiny.step_of(variant, opt, state, accum)
    rows = len(batch.coef_B)
    state, metrics = one(
        state, mesh.place(at, frozen), mesh.place_batch(at, batch, rows), jax.random.key(0)
    )
    return jax.device_get(state.params), metrics.fetch()


@pytest.mark.parametrize("variant", [pytest.param("ppo", marks=pytest.mark.slow), "grpo"])
def test_accumulated_and_sharded_updates_are_the_plain_one(variant):
    trained, frozen, batch = first_batch(variant)
    plain, told = updated(variant, trained, frozen, batch, 1, None)
    assert told["clipped"] == 0 and told["moved"] == pytest.approx(0, abs=1e-6)  # the ratio is 1
    assert told["reward"] == pytest.approx(float(batch.told["reward"].mean()))
    eight = make_mesh(mesh.MeshConfig(data=4, fsdp=2))
    other, also = updated(variant, trained, frozen, batch, 2, eight)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)
    assert also["loss"] == pytest.approx(told["loss"], rel=1e-4, abs=1e-6)


def test_what_a_rollout_is_worth_is_plain_arithmetic():
    _, _, batch = first_batch("ppo")
    written = np.asarray(batch.said.loss_BL) > 0
    kl = np.where(written, batch.old_BL - batch.ref_BL, 0)
    assert np.abs(kl).max() > 1e-3  # the reference is the model without its Delta
    np.testing.assert_allclose(kl.sum(1), batch.told["kl"], atol=1e-4)
    priced = -float(batch.coef_B[0]) * kl
    for i, row in enumerate(written):
        priced[i, np.flatnonzero(row)[-1]] += batch.told["reward"][i]
    advantage, returns = pg.gae(
        jnp.asarray(priced), jnp.asarray(batch.value_BL), jnp.asarray(written)
    )
    np.testing.assert_allclose(batch.return_BL, returns, atol=1e-5)
    white = pg.whiten(advantage, jnp.asarray(written))
    np.testing.assert_allclose(batch.advantage_BL, white, atol=1e-4)
    _, _, grouped = first_batch("grpo")
    reward = grouped.told["reward"].reshape(-1, 4)
    away = (reward - reward.mean(1, keepdims=True)) / (reward.std(1, keepdims=True, ddof=1) + 1e-4)
    inside = np.asarray(grouped.said.loss_BL) > 0
    np.testing.assert_allclose(
        grouped.advantage_BL, np.where(inside, away.reshape(-1, 1), 0), atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["ppo", "grpo"])
def test_a_planted_reward_is_learned_and_the_kl_stays_bounded(tmp_path, variant):
    seen: list[dict] = []
    cheap = KlConfig(coef=0.005, target=2.0, horizon=500.0)  # all of the reward costs 24 nats
    rollout = {"rows": 32, "kl": cheap, "report": lambda n, numbers: seen.append(dict(numbers))}
    one = make_mesh(mesh.MeshConfig(), jax.devices()[:1])
    tiny.train(variant, tmp_path, steps_=160, mesh=one, lr=2e-2, rollout=rollout)
    reward = [numbers["reward"] for numbers in seen]
    assert len(reward) == 40
    assert np.mean(reward[:2]) < 0.1 and np.mean(reward[-5:]) > 0.75
    # 8 tokens, each at most about the 3 nats that one of 24 tokens costs
    assert max(numbers["kl"] for numbers in seen) < 8 * math.log(24) * 1.5
    # a KL that passes its target (2 nats) makes itself dearer
    assert seen[-1]["coef"] > seen[0]["coef"]


# ------------------------------------------------------------------------------------------- the script


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny base with a tokenizer of ours, and prompts of which some cannot be used."""
    at = tmp_path_factory.mktemp("base")
    make = jax.jit(lambda key: Decoder(CFG).init(key, jnp.zeros((1, 2), jnp.int32))["params"])
    hub.save(at / "model", CFG, jax.device_get(make(jax.random.key(0))))
    rows = [
        {"prompt": f"say why the {a} {b} fits", "rating": r, "persona": a, "title": b}
        for r, a in enumerate(("red", "blue", "green", "pink", "grey"), 1) for b in ("cup", "car", "hat")
    ]  # fmt: skip
    tok = train_tokenizer([row["prompt"] + " one more merge here and there" for row in rows], 300)
    tok.save(at / "model" / "tokenizer.json")
    bad = [{"prompt": ""}, {"prompt": "so " * 90}, {"prompt": "x", "rating": "five"}, rows[0]]
    (at / "rows.jsonl").write_text("\n".join(map(json.dumps, [*rows, *bad])) + "\n{cut")
    return at


def config_of(folder, out, **changes) -> ppo.PpoConfig:
    known = {
        "base": str(folder / "model"), "prompts": str(folder / "rows.jsonl"), "longest": 40,
        "generation": Generation(max_new=6, stop=("e",)), "delta": DeltaConfig(lora_rank=2),
        "episodes": 3, "rollout": RolloutConfig(rows=8, group=1, epochs=1, minibatches=2),
        "opt": OptConfig(lr=1e-2, schedule="constant"), "hold_out_every": 5, "samples": 2,
        "loop": LoopConfig(steps=0, log_every=1, eval_every=4, save_every=2, progress=False,
                           monitor="held_reward", mode="max"),
        "out": str(out),
    }  # fmt: skip
    return ppo.PpoConfig(**known | changes)


@pytest.fixture(scope="module", autouse=True)
def one_device():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mesh, "make", lambda cfg, _=None: make_mesh(cfg, jax.devices()[:1]))
        yield


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_from_a_folder_to_an_adapter_and_on(tmp_path, folder, capsys):
    cfg = config_of(folder, tmp_path / "whole")
    told = ppo.main(cfg)
    said = capsys.readouterr().out
    for left_out in ("no prompt, or an empty one", "too long", "no number", "there before"):
        assert left_out in said
    rollouts = lines(tmp_path / "whole" / "rollouts.jsonl")
    assert [row["rollout"] for row in rollouts] == [0, 1, 2] and told["rollouts"] == 3
    wanted = {"reward", "reward/length", "reward/personal", "reward/sentiment", "reward/generic",
              "gaming/repetition", "kl", "coef", "tokens", "stopped_short", "explained_variance"}  # fmt: skip
    assert wanted <= rollouts[0].keys()
    assert rollouts[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert rollouts[0]["tokens"] <= 6
    samples = lines(tmp_path / "whole" / "samples.jsonl")
    assert [row["step"] for row in samples] == [0, 0, 4, 4, 6, 6]
    assert all("e" not in row["text"] for row in samples)
    assert (tmp_path / "whole" / "reward.png").stat().st_size > 10_000
    metrics = lines(tmp_path / "whole" / "metrics.jsonl")
    assert {"clipped", "moved", "value", "entropy", "reward/length"} <= metrics[0].keys()

    # an adapter is where a further stage starts, and its reference
    further = ppo.parts(cfg, load_tuned(tmp_path / "whole" / "adapter"))
    assert set(further[0]) == {"delta", "value"} and set(further[1]) == {"backbone", "start"}
    lm = TunedLM(Decoder(CFG))
    both = lm.reference({**further[0], **further[1]})
    assert both["delta"] is further[1]["start"]["delta"] and "start" not in both


class Stop(RuntimeError):
    """What a kill is to a run."""


@pytest.mark.slow
def test_a_run_that_was_killed_in_mid_rollout_goes_on(tmp_path, folder):
    cfg = config_of(folder, tmp_path / "whole")
    told = ppo.main(cfg)
    rollouts = lines(tmp_path / "whole" / "rollouts.jsonl")
    samples = lines(tmp_path / "whole" / "samples.jsonl")
    add = ppo.RolloutRecord.add

    def stop(self, number, numbers):
        add(self, number, numbers)
        if number == 2:
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppo.RolloutRecord, "add", stop)
        part = dataclasses.replace(cfg, out=str(tmp_path / "parts"))
        part = dataclasses.replace(part, loop=dataclasses.replace(part.loop, save_every=3))
        with pytest.raises(Stop):
            ppo.main(part)
    assert ppo.main(part) == told
    assert lines(tmp_path / "parts" / "rollouts.jsonl") == rollouts
    assert lines(tmp_path / "parts" / "samples.jsonl") == samples
    whole, parts = (load_tuned(tmp_path / x / "adapter").tree for x in ("whole", "parts"))
    for name in ("delta", "value"):
        for a, b in zip(jax.tree.leaves(whole[name]), jax.tree.leaves(parts[name]), strict=True):
            np.testing.assert_array_equal(a, b)


def nan_reward(samples):
    """Not a number from the second text on."""
    return [Score(math.nan if i and s.text else 0.5) for i, s in enumerate(samples)]


def test_what_is_wrong_is_said(tmp_path, folder):
    cfg = config_of(folder, tmp_path)
    changed = lambda **changes: dataclasses.replace(cfg, **changes)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    only_long = tmp_path / "long.jsonl"
    only_long.write_text(json.dumps({"prompt": "so " * 90}))
    for wrong, said in (
        (changed(prompts=str(empty)), "no usable prompt; it is empty"),
        (changed(prompts=str(only_long)), "no usable prompt; 1 too long: more than 40 tokens"),
        (changed(prompts=str(tmp_path / "none.jsonl")), "there is no file"),
        (changed(reward="genrek"), "no reward 'genrek'; there are genrec"),
        (changed(variant="grpo"), "group must be 2 or more"),
        (changed(loop=LoopConfig(steps=5)), "follows from `episodes`"),
        (changed(generation=Generation(temperature=0.0)), "explores nothing"),
        (changed(method="full", delta=DeltaConfig(), quantise="nf4"), "has no gradient"),
    ):
        with pytest.raises(RunError, match=said):
            ppo.main(wrong)
    with pytest.raises(RunError, match="group 3 does not divide the 8 rows"):
        RolloutConfig(rows=8, group=3)


@pytest.mark.slow
def test_a_reward_that_is_no_number_stops_the_run(tmp_path, folder):
    four = RolloutConfig(rows=8, group=4, epochs=1)
    cfg = config_of(folder, tmp_path, variant="grpo", rollout=four)
    with pytest.raises(RewardError, match="total is nan for sample 1"):
        ppo.main(dataclasses.replace(cfg, reward="test_ppo_stage:nan_reward"))
    assert ppo.main(cfg)["rollouts"] == 3


@pytest.mark.slow
def test_what_is_spared_changes_nothing():
    """Logits before the texts, the Delta beside the weights, the old pass of a policy that has not moved."""
    trained, frozen, batch = first_batch("grpo")
    frozen, batch = jax.tree.map(jnp.asarray, (frozen, batch))
    lm, said = TunedLM(Decoder(tiny.CFG)), batch.said
    reward = jnp.asarray(batch.told["reward"])
    with_all = dataclasses.replace(tiny.LOSSES["grpo"], since=0)
    found = jax.jit(assess_grpo(lm, with_all))(trained, frozen, said, reward, 0.1)
    inside = np.asarray(said.loss_BL) > 0
    for name in ("old_BL", "ref_BL"):
        own, other = getattr(batch, name), np.asarray(getattr(found.rollout, name))
        np.testing.assert_allclose(own[inside], other[inside], atol=1e-5)
    once = dataclasses.replace(tiny.LOSSES["grpo"], on_policy=True)
    values = []
    for cfg in (tiny.LOSSES["grpo"], once):
        objective = grpo(lm, cfg)
        totals = objective.weigh(batch)
        slope = jax.jit(
            jax.grad(lambda p, o=objective, t=totals: o.loss(p, frozen, None, batch, t, None)[0])
        )
        values.append(jax.tree.leaves(slope(trained)))
    for a, b in zip(*values, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)
    greedy = Generation(max_new=tiny.NEW, temperature=0.0, stop=())
    made = [
        decoder_writer(
            tiny.CFG, greedy, eos=[tiny.EOS], text_of=str, longest=tiny.PROMPT, merged=merged
        )({**frozen, **trained}, tiny.PROMPTS, 0)
        for merged in (False, True)
    ]
    assert made[0].ids == made[1].ids

"""Rollouts as a source: every text learned from equally often, a state that resumes in mid-epoch, early stop on KL."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_rewarded as tiny

from jaxrec import checkpoint
from jaxrec import mesh as meshes
from jaxrec.structs import Tokens
from jaxrec.training.rollout import (
    Assessment,
    KlConfig,
    Playout,
    Rollout,
    RolloutConfig,
    RolloutError,
    RolloutSource,
    adapt_kl,
)

ROWS, WIDTH = 12, 5


def paper_source(n_prompts: int = 7, reward=None, drift=None, seen=None, **config) -> RolloutSource:
    """A source without a model: the ids of a text say its prompt, the rollout's seed and its row."""

    def play(params, index_R, seed):
        ids = np.zeros((ROWS, WIDTH), np.int32)
        ids[:, 0], ids[:, 1], ids[:, 2] = index_R, seed % 1000, np.arange(ROWS)
        own = np.arange(ROWS, dtype=np.float32) if reward is None else reward
        return Playout(Tokens(ids, ids > -1, np.ones((ROWS, WIDTH), np.float32)), own, {"x": own})

    def assess(params, said, reward_R, coef):
        made = [np.full((ROWS, WIDTH), v, np.float32) for v in (1, 2, 3, 4, 5)]
        made[2] *= reward_R[:, None]
        rollout = Rollout(None, *made, np.full(ROWS, coef, np.float32), {})
        return Assessment(rollout, np.full(ROWS, 12.0, np.float32), {"told": np.float32(1)})

    like = play(None, np.zeros(ROWS), 0)
    report = None if seen is None else lambda n, numbers: seen.append((n, numbers))
    given = {"rows": ROWS, "epochs": 2, "minibatches": 3} | config
    return RolloutSource(
        RolloutConfig(**given), n_prompts, play, assess, like, WIDTH, drift=drift, report=report
    )


def handed_out(source, state, count: int):
    batches = []
    for step in range(count):
        batch, state = source(step, None, state)
        batches.append(batch)
    return batches, state


def test_each_text_is_learned_from_once_an_epoch():
    source = paper_source()
    batches, state = handed_out(source, source.init(), 12)
    for start in (0, 3, 6, 9):
        own = np.concatenate([b.said.ids_BL for b in batches[start : start + 3]])
        assert sorted(own[:, 2]) == list(range(ROWS))
        assert len(set(own[:, 1])) == 1
    orders = [np.concatenate([b.said.ids_BL[:, 2] for b in batches[s : s + 3]]) for s in (0, 3, 6)]
    assert not (orders[0] == orders[1]).all() and not (orders[0] == orders[2]).all()
    assert (batches[0].said.ids_BL[:, 1] != batches[6].said.ids_BL[0, 1]).all()  # another seed
    assert int(state["rollouts"]) == 2 and int(state["skipped"]) == 0
    for batch in batches:  # a row's numbers stay with the row
        np.testing.assert_array_equal(batch.advantage_BL[:, 0], 3.0 * batch.said.ids_BL[:, 2])
        np.testing.assert_array_equal(batch.told["reward"], batch.said.ids_BL[:, 2])


def test_prompts_take_turns_and_groups_are_neighbours():
    source = paper_source(group=3, epochs=1, minibatches=1)
    batches, _ = handed_out(source, source.init(), 7)
    prompts = np.concatenate([b.said.ids_BL[:, 0] for b in batches])
    assert (prompts.reshape(-1, 3) == prompts[::3, None]).all()
    turns = prompts[::3].reshape(-1, 7)  # 4 prompts a rollout, 7 in all
    assert all(sorted(turn) == list(range(7)) for turn in turns)
    assert not (turns[0] == turns[1]).all()


def test_the_source_is_a_function_of_its_state():
    source, again = paper_source(), paper_source()
    _, state = handed_out(source, source.init(), 4)
    before = jax.tree.map(np.copy, state)
    first, _ = handed_out(source, state, 5)
    second, _ = handed_out(again, before, 5)
    jax.tree.map(np.testing.assert_array_equal, first, second)
    jax.tree.map(np.testing.assert_array_equal, state, before)  # nothing of it was written to
    shape = lambda tree: jax.tree.map(lambda x: (np.shape(x), np.asarray(x).dtype), tree)
    assert shape(source.init()) == shape(state)


def test_a_policy_that_went_too_far_leaves_the_rest_of_its_rollout():
    moved = iter([0.1, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1])
    seen = []
    source = paper_source(target_kl=0.2, drift=lambda params, batch: next(moved), seen=seen)
    batches, state = handed_out(source, source.init(), 4)
    own = [b.said.ids_BL[0, 1] for b in batches]
    assert own[0] == own[1] != own[2] == own[3]  # the third minibatch is of a new rollout
    assert int(state["skipped"]) == 4 and [n for n, _ in seen] == [0, 1]
    assert [numbers["skipped"] for _, numbers in seen] == [0, 4]


def test_the_price_of_kl_follows_its_target():
    # Ziegler 2019: error clipped to 0.2, times rows / horizon
    config = KlConfig(coef=0.1, target=6.0, horizon=100.0)
    assert adapt_kl(config, 0.1, 6.6, 10) == pytest.approx(0.1 * (1 + 0.1 * 0.1))
    assert adapt_kl(config, 0.1, 60.0, 10) == pytest.approx(0.1 * 1.02)
    assert adapt_kl(config, 0.1, 0.0, 10) == pytest.approx(0.1 * 0.98)
    assert adapt_kl(dataclasses.replace(config, adaptive=False), 0.1, 60.0, 10) == 0.1
    seen = []
    source = paper_source(kl=KlConfig(0.1, True, 6.0, 100.0), epochs=1, minibatches=1, seen=seen)
    batches, _ = handed_out(source, source.init(), 3)
    wanted = [0.1, 0.1 * 1.024, 0.1 * 1.024**2]  # kl 12, rows 12
    np.testing.assert_allclose([b.coef_B[0] for b in batches], wanted, rtol=1e-6)
    np.testing.assert_allclose([n["coef"] for _, n in seen], wanted)
    assert seen[0][1]["kl"] == 12 and seen[0][1]["told"] == 1 and seen[0][1]["reward"] == 5.5


def test_rewards_over_the_deviation_of_all_that_were_met():
    source = paper_source(running_scale=True, epochs=1, minibatches=1)
    batches, state = handed_out(source, source.init(), 3)
    all_ = np.tile(np.arange(ROWS), 3)
    count, mean, squares = state["rewards"]
    assert count == 36 and mean == pytest.approx(all_.mean())
    assert squares == pytest.approx(((all_ - all_.mean()) ** 2).sum())
    scaled = batches[2].advantage_BL[:, 0] / 3
    np.testing.assert_allclose(scaled, np.arange(ROWS) / all_.std(ddof=1), rtol=1e-5)
    equal = paper_source(running_scale=True, reward=np.full(ROWS, 0.5, np.float32))
    np.testing.assert_allclose(handed_out(equal, equal.init(), 1)[0][0].advantage_BL[:, 0], 1.5)


def test_what_does_not_fit_is_refused():
    for wrong, said in (
        ({"group": 5}, "group 5 does not divide the 12 rows"),
        ({"minibatches": 5}, "minibatches 5 does not divide the 12 rows"),
        ({"epochs": 0}, "are positive"),
        ({"target_kl": 0.1}, "needs `drift`"),
        ({"kl": KlConfig(target=0.0)}, "needs a target"),
        ({"n_prompts": 0}, "no prompt"),
    ):
        with pytest.raises(RolloutError, match=said):
            paper_source(**wrong)
    bad = paper_source(reward=np.where(np.arange(ROWS) == 3, np.nan, 1).astype(np.float32))
    with pytest.raises(RolloutError, match="the reward of row 3 is nan"):
        bad(0, None, bad.init())
    state = paper_source(n_prompts=7).init()
    with pytest.raises(RolloutError, match="began with 7 prompts and now has 8"):
        paper_source(n_prompts=8)(0, None, state)


@pytest.mark.slow
def test_a_run_stopped_in_the_middle_of_an_epoch_goes_on_bit_for_bit(tmp_path):
    one = meshes.make(meshes.MeshConfig(), jax.devices()[:1])
    rollout = {"target_kl": 0.01, "running_scale": True}
    run = lambda out, n: tiny.train("ppo", tmp_path / out, steps_=n, mesh=one, rollout=rollout)
    whole = run("whole", 11).state
    stops = []
    for until in (3, 6, 11):  # 4 minibatches a rollout, where the KL does not cut it short
        state = run("parts", until).state
        stops.append(int(state.source["place"]) % 4)
    assert any(stops[:2]), "no stop was in the middle of a rollout"
    assert int(state.source["rollouts"]) > 2 and int(state.source["skipped"]) > 0
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    with pytest.raises(checkpoint.CheckpointError, match="another model"):
        tiny.train("ppo", tmp_path / "parts", steps_=12, mesh=one, rollout={"rows": 32})

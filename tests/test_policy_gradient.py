"""PPO's and GRPO's arithmetic: hand-computed numbers, plain loops, and TRL's own code."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.losses import policy_gradient as pg


def rows(seed: int = 0, b: int = 4, l: int = 7):  # noqa: E741
    """Random rows with a prompt before and padding behind, of different lengths, and one hole."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((b, l), bool)
    for i in range(b):
        mask[i, 1 + i % 2 : l - i % 3] = True
    mask[0, 3] = False
    draw = lambda: jnp.asarray(rng.normal(size=(b, l)), jnp.float32)
    return rng, jnp.asarray(mask), draw


def test_gae_by_hand():
    # r = 1, 0, 2; v = .5, 1, 1.5; gamma .9, lambda .8: deltas 0.9, 0.35, 0.5
    reward = jnp.array([[9.0, 1.0, 0.0, 2.0, 9.0]])
    value = jnp.array([[7.0, 0.5, 1.0, 1.5, 7.0]])
    mask = jnp.array([[False, True, True, True, False]])
    advantage, returns = pg.gae(reward, value, mask, 0.9, 0.8)
    last = 0.5
    middle = 0.35 + 0.72 * last
    first = 1 + 0.9 * 1.0 - 0.5 + 0.72 * middle
    np.testing.assert_allclose(advantage[0], [0, first, middle, last, 0], rtol=1e-6)
    np.testing.assert_allclose(returns[0], [0, first + 0.5, middle + 1, last + 1.5, 0], rtol=1e-6)


def test_gae_is_the_loop_and_steps_over_holes():
    _, mask, draw = rows()
    reward, value = draw(), draw()
    got, returns = pg.gae(reward, value, mask, 0.99, 0.9)
    for i in range(mask.shape[0]):
        own = np.flatnonzero(mask[i])
        ahead = after = 0.0
        for t in own[::-1]:
            delta = float(reward[i, t]) + 0.99 * after - float(value[i, t])
            ahead = delta + 0.99 * 0.9 * ahead
            after = float(value[i, t])
            np.testing.assert_allclose(float(got[i, t]), ahead, rtol=1e-5)
            np.testing.assert_allclose(float(returns[i, t]), ahead + after, rtol=1e-5)
    assert not np.asarray(got)[~np.asarray(mask)].any()
    # lambda = gamma = 1 and no value: the sum of what is still to come
    alone, _ = pg.gae(reward, jnp.zeros_like(value), mask, 1.0, 1.0)
    kept = np.where(mask, reward, 0)
    np.testing.assert_allclose(alone, np.cumsum(kept[:, ::-1], 1)[:, ::-1] * mask, atol=1e-5)


def test_group_advantages_by_hand():
    reward = jnp.array([1.0, 2.0, 3.0, 5.0, 5.0, 5.0])
    got = pg.group_advantages(reward, 3)
    np.testing.assert_allclose(got, [-1 / 1.0001, 0, 1 / 1.0001, 0, 0, 0], atol=1e-6)
    plain = pg.group_advantages(reward, 3, scale=False)
    np.testing.assert_allclose(plain, [-1, 0, 1, 0, 0, 0], atol=1e-6)
    for group in (1, 4):
        with pytest.raises(ValueError, match=f"groups of {group} rows cannot be made of 6"):
            pg.group_advantages(reward, group)


def test_clipping_by_hand():
    log = lambda *ratio: jnp.log(jnp.array([ratio]))
    ratio, advantage = (1.5, 1.5, 0.5, 0.5, 1.1), jnp.array([[1.0, -1.0, 1.0, -1.0, 2.0]])
    loss, held = pg.clipped_policy(log(*ratio), jnp.zeros((1, 5)), advantage)
    np.testing.assert_allclose(loss[0], [-1.2, 1.5, -0.5, 0.8, -2.2], rtol=1e-6)
    np.testing.assert_array_equal(held[0], [1, 0, 0, 1, 0])
    higher, _ = pg.clipped_policy(log(*ratio), jnp.zeros((1, 5)), advantage, 0.2, 0.28)
    assert float(higher[0, 0]) == pytest.approx(-1.28)
    # v: 2 against 0 at the rollout, clipped to .2; R = 1: max(1, .64) / 2; R = 3: max(1, 7.84) / 2
    value, old, returns = jnp.array([[2.0, 2.0]]), jnp.zeros((1, 2)), jnp.array([[1.0, 3.0]])
    np.testing.assert_allclose(pg.clipped_value(value, old, returns), [[0.5, 3.92]], rtol=1e-6)
    np.testing.assert_allclose(pg.clipped_value(value, old, returns, 0.0), [[0.5, 0.5]])


def test_where_the_clip_holds_there_is_no_gradient():
    ratio, advantage = jnp.array([[1.5, 0.5, 1.5]]), jnp.array([[1.0, -1.0, -1.0]])
    slope = jax.grad(lambda x: pg.clipped_policy(x, jnp.zeros((1, 3)), advantage)[0].sum())
    np.testing.assert_allclose(slope(jnp.log(ratio))[0], [0, 0, 1.5], rtol=1e-6)


def test_kl_estimates_are_right_in_the_mean():
    p, q = jax.nn.log_softmax(jnp.array([[1.0, 0, -1, 2]])), jax.nn.log_softmax(jnp.zeros((1, 4)))
    true = float((jnp.exp(p) * (p - q)).sum())
    for kind in ("k1", "k3"):
        assert float((jnp.exp(p) * pg.kl(p, q, kind)).sum()) == pytest.approx(true, rel=1e-5)
    assert float(pg.kl(p, q, "k3").min()) >= 0
    assert float(jnp.abs(pg.kl(p, p, "k3")).max()) == 0
    with pytest.raises(ValueError, match="k1 or k3"):
        pg.kl(p, q, "k7")


def test_whitening_counts_the_mask_alone():
    _, mask, draw = rows()
    x = draw()
    inside = np.asarray(x)[np.asarray(mask)]
    white = np.asarray(pg.whiten(x, mask))
    wanted = (inside - inside.mean()) / inside.std(ddof=1)
    np.testing.assert_allclose(white[np.asarray(mask)], wanted, rtol=1e-4, atol=1e-6)
    assert not white[~np.asarray(mask)].any()
    kept = np.asarray(pg.whiten(x, mask, shift=False))[np.asarray(mask)]
    np.testing.assert_allclose(kept, wanted + inside.mean(), rtol=1e-4, atol=1e-5)
    poisoned = jnp.where(mask, x, jnp.nan)
    np.testing.assert_allclose(pg.whiten(poisoned, mask), white)
    none = jnp.zeros_like(mask)
    assert np.isfinite(pg.whiten(x, none)).all() and float(pg.masked_mean(x, none)) == 0


def test_log_probs_entropy_and_explained_variance():
    rng, mask, draw = rows()
    logits = jnp.asarray(rng.normal(size=(4, 7, 5)), jnp.float32)
    ids = jnp.asarray(rng.integers(0, 5, (4, 7)))
    got, spread = pg.token_log_probs(logits, ids, 0.7), pg.token_entropy(logits, 0.7)
    p = np.asarray(jax.nn.softmax(logits / 0.7))
    for i in range(4):
        for t in range(1, 7):
            assert float(got[i, t]) == pytest.approx(np.log(p[i, t - 1, ids[i, t]]), rel=1e-4)
            own = p[i, t - 1]
            assert float(spread[i, t]) == pytest.approx(-(own * np.log(own)).sum(), rel=1e-4)
    assert not got[:, 0].any() and not spread[:, 0].any()
    returns = draw()
    assert float(pg.explained_variance(returns, returns, mask)) == pytest.approx(1)
    assert float(pg.explained_variance(returns * 0 + 3, returns, mask)) == pytest.approx(
        0, abs=1e-6
    )
    assert float(pg.explained_variance(returns, returns * 0, mask)) == 0


@pytest.mark.slow  # importing trl alone takes 5 s
@pytest.mark.parametrize("kind", ["grpo", "bnpo", "dr_grpo"])
def test_the_grpo_loss_is_trls(kind):
    pytest.importorskip("trl", reason="trl is not installed (extra: parity)")
    torch = pytest.importorskip("torch")
    from trl import GRPOTrainer
    from trl.trainer.grpo_trainer import nanstd

    _, _, draw = rows(3)
    mask = np.arange(7)[None] < np.array([[7], [3], [5], [6]])
    log_p, old, ref = (0.5 * draw() - 1 for _ in range(3))
    reward = jnp.array([0.3, 0.7, -0.2, 0.9])
    advantage = pg.group_advantages(reward, 2)
    theirs = torch.tensor(np.asarray(reward))
    deviation = nanstd(theirs.view(-1, 2), dim=1).repeat_interleave(2)
    mean = theirs.view(-1, 2).mean(1).repeat_interleave(2)
    away = (theirs - mean) / (deviation + 1e-4)
    np.testing.assert_allclose(advantage, away, rtol=1e-5)

    tensor = lambda x: torch.tensor(np.asarray(x))
    fake = _trainer(kind, lambda *_, **__: (tensor(log_p), torch.zeros(4, 7), None))
    inputs = {
        "prompt_ids": torch.zeros(4, 2), "prompt_mask": torch.ones(4, 2),
        "completion_ids": torch.zeros(4, 7), "completion_mask": tensor(mask).long(),
        "advantages": away, "old_per_token_logps": tensor(old), "ref_per_token_logps": tensor(ref),
        "num_items_in_batch": torch.tensor(float(mask.sum())),
    }  # fmt: skip
    wanted = float(GRPOTrainer._compute_loss(fake, types.SimpleNamespace(), inputs))
    each, _ = pg.clipped_policy(log_p, old, advantage[:, None] * jnp.ones_like(old), 0.2, 0.28)
    each = jnp.where(mask, each + 0.04 * pg.kl(log_p, ref, "k3"), 0.0)
    by = {
        "grpo": (each.sum(1) / mask.sum(1)).mean(),
        "bnpo": each.sum() / mask.sum(),
        "dr_grpo": each.sum() / (4 * 7),
    }
    assert float(by[kind]) == pytest.approx(wanted, abs=1e-5)


def _trainer(kind: str, log_probs) -> types.SimpleNamespace:
    """As much of a GRPOTrainer as its loss looks at."""
    from collections import defaultdict

    alone = lambda x, **_: x
    plain = types.SimpleNamespace(gather=alone, reduce=alone, num_processes=1)
    arguments = types.SimpleNamespace(
        delta=None, use_bias_correction_kl=False, steps_per_generation=1
    )
    return types.SimpleNamespace(
        _get_per_token_logps_and_entropies=log_probs, aux_loss_enabled=False,
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, importance_sampling_level="token",
        beta=0.04, args=arguments, loss_type=kind, epsilon_low=0.2, epsilon_high=0.28,
        use_vllm=False, model=types.SimpleNamespace(training=False), max_completion_length=7,
        _entropy_bonus_enabled=False, _metrics=defaultdict(lambda: defaultdict(list)),
        accelerator=plain, current_gradient_accumulation_steps=1, use_adaptive_entropy=False,
    )  # fmt: skip

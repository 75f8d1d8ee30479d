"""Floor 4: learning from rewards: PPO with a value head (Schulman 2017, Ziegler 2019), GRPO without one (Shao 2024).

The policy whose log-probabilities are trained is softmax(logits / temperature), the model at the temperature of the
rollout, as TRL has it. Top-p and the repetition penalty are part of how texts are explored and not of the policy: the
old log-probabilities are computed by the same teacher-forced pass as the new ones, so the ratio of an unmoved policy is
1 whatever the sampler did. (The sampled texts then are those of a slightly narrower distribution: an off-policy bias
that vanishes with top_p = 1 and no penalty.) Dropout is off, or the ratio would be noise.

    ppo   KL to the reference is a price on each token of the reward; GAE; the value head learns the returns
    grpo  a text's advantage is its reward against its group's; the KL is a term of the loss
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrec.losses import policy_gradient as pg
from jaxrec.models.language.tuned_lm import LM
from jaxrec.models.language.value import values_before
from jaxrec.objectives.objective import Objective
from jaxrec.structs import Aux, PyTree
from jaxrec.training.partition import merge
from jaxrec.training.rollout import Assessment, Rollout

# (params, frozen, said, reward_B, coef) -> Assessed
Assess = Callable[[PyTree, PyTree, PyTree, Array, Array], Assessment]


@dataclasses.dataclass(frozen=True)
class PpoLoss:
    """Numbers of PPO. `temperature` is that of the rollout. No token up to place `since` is written by the policy:
    logits before it are not computed."""

    clip: float = 0.2  # of the ratio
    value_clip: float = 0.2  # 0: none
    value_weight: float = 0.1
    entropy_weight: float = 0.0
    gamma: float = 1.0
    lam: float = 0.95
    whiten_rewards: bool = False  # each token's, about their own mean
    whiten_advantages: bool = True
    temperature: float = 1.0
    since: int = 0


@dataclasses.dataclass(frozen=True)
class GrpoLoss:
    """Numbers of GRPO. `mean`: over tokens, over each text first ("texts"), or over `max_new` ("constant").

    scale: advantages over the deviation of their group; without it, and with "constant", it is Dr. GRPO (Liu 2025).
    on_policy: each rollout is learned from once and whole, so the old log-probabilities are the new ones, and no pass
    is spent on them (nor does `assess` know the KL then: the loss tells it). reference: whether the KL has a price at
    all; without one no pass is spent on it either. since: as for PPO.
    """

    group: int = 4
    clip_low: float = 0.2
    clip_high: float = 0.2
    scale: bool = True
    mean: Literal["tokens", "texts", "constant"] = "tokens"
    max_new: int = 60
    kl: Literal["k1", "k3"] = "k3"
    entropy_weight: float = 0.0
    temperature: float = 1.0
    on_policy: bool = False
    reference: bool = True
    since: int = 0


# ------------------------------------------------------------------------------------------------- ppo


def ppo(lm: LM, cfg: PpoLoss = PpoLoss()) -> Objective:
    """Clipped policy loss + value_weight x clipped value loss - entropy_weight x entropy, means over tokens.

    Batch: `Rollout`. Trains the LM's part and "value". Metrics: `policy`, `value`, `entropy`, `clipped` (part of the
    tokens), `moved` (KL from the policy that wrote), and the means of all that the rollout tells.
    """

    def loss(params, frozen, extra, batch: Rollout, totals, key_B):
        del extra, key_B
        tree, mask_BL = merge(params, frozen), choice_mask(lm, batch.said)
        # Prompts end at one place in all rows, so that the logits before it are never computed.
        out = lm.outputs(tree, batch.said, hidden=(-1,), since=cfg.since)
        log_p_BL = _log_probs(lm, batch.said, out.logits, cfg)
        value_BL = values_before(tree["value"], out.hidden[-1])
        each, held = pg.clipped_policy(
            log_p_BL, batch.old_BL, batch.advantage_BL, cfg.clip, cfg.clip
        )
        mean = lambda x_BL: jnp.where(mask_BL, x_BL, 0.0).sum() / totals["tokens"]
        terms = {
            "policy": mean(each),
            "value": mean(
                pg.clipped_value(value_BL, batch.value_BL, batch.return_BL, cfg.value_clip)
            ),
            "entropy": mean(_entropy(out.logits, cfg)),
            "clipped": mean(held),
            "moved": mean(pg.kl(batch.old_BL, log_p_BL, "k3")),
        }
        total = terms["policy"] + cfg.value_weight * terms["value"]
        total = total - cfg.entropy_weight * terms["entropy"]
        return total, Aux({**_told(batch, totals), **terms})

    return Objective(loss, _weigh(lm))


def assess_ppo(lm: LM, cfg: PpoLoss = PpoLoss()) -> Assess:
    """What a rollout is worth to PPO. The reward comes with a text's last token, the price of KL (k1) with each."""

    def assess(params, frozen, said, reward_B, coef) -> Assessment:
        tree, mask_BL = merge(params, frozen), choice_mask(lm, said)
        out = lm.outputs(tree, said, hidden=(-1,), since=cfg.since)
        old_BL = _log_probs(lm, said, out.logits, cfg)
        value_BL = jnp.where(mask_BL, values_before(tree["value"], out.hidden[-1]), 0.0)
        ref_BL = _reference(lm, tree, said, cfg)
        kl_BL = jnp.where(mask_BL, pg.kl(old_BL, ref_BL, "k1"), 0.0)
        # The reward is for the whole text and falls due at its last token: the place from which on, counted
        # backwards, there is exactly one.
        last_BL = mask_BL & (jnp.cumsum(mask_BL[:, ::-1], axis=1)[:, ::-1] == 1)
        priced_BL = jnp.where(last_BL, reward_B[:, None], 0.0) - coef * kl_BL
        if cfg.whiten_rewards:
            priced_BL = pg.whiten(priced_BL, mask_BL, shift=False)
        advantage_BL, return_BL = pg.gae(priced_BL, value_BL, mask_BL, cfg.gamma, cfg.lam)
        told = {"explained_variance": pg.explained_variance(value_BL, return_BL, mask_BL)}
        # Only now that the returns are made: those are what the value head predicts, in units of reward, while the
        # policy only needs to know which tokens were better than others.
        if cfg.whiten_advantages:
            advantage_BL = pg.whiten(advantage_BL, mask_BL)
        coef_B = jnp.full_like(reward_B, coef)
        rollout = Rollout(None, old_BL, ref_BL, advantage_BL, return_BL, value_BL, coef_B, {})
        return Assessment(rollout, kl_BL.sum(1), told)

    return assess


# ------------------------------------------------------------------------------------------------ grpo


def grpo(lm: LM, cfg: GrpoLoss = GrpoLoss()) -> Objective:
    """Clipped policy loss + the batch's price x KL to the reference - entropy_weight x entropy. Batch: `Rollout`.

    Metrics as for `ppo`, without `value`, and with `kl_loss` (nats a token).
    """

    def loss(params, frozen, extra, batch: Rollout, totals, key_B):
        del extra, key_B
        tree, mask_BL = merge(params, frozen), choice_mask(lm, batch.said)
        logits = lm.outputs(tree, batch.said, since=cfg.since).logits
        log_p_BL = _log_probs(lm, batch.said, logits, cfg)
        # The ratio then is 1 and has the gradient of log p. If the gradient flowed through both it would cancel,
        # and nothing would be learned.
        old_BL = jax.lax.stop_gradient(log_p_BL) if cfg.on_policy else batch.old_BL
        each, held = pg.clipped_policy(
            log_p_BL, old_BL, batch.advantage_BL, cfg.clip_low, cfg.clip_high
        )
        # Means over each text first, as GRPO has them, make a token of a short text weigh more; a constant instead
        # of the length removes that bias (Liu 2025, "Dr. GRPO").
        count_B1 = jnp.maximum(mask_BL.sum(1, keepdims=True), 1)
        tokens = lambda x_BL: jnp.where(mask_BL, x_BL, 0.0).sum() / totals["tokens"]
        mean = {
            "tokens": tokens,
            "texts": lambda x_BL: jnp.where(mask_BL, x_BL / count_B1, 0.0).sum() / totals["rows"],
            "constant": lambda x_BL: (
                jnp.where(mask_BL, x_BL, 0.0).sum() / (totals["rows"] * cfg.max_new)
            ),
        }[cfg.mean]
        terms = {
            "policy": mean(each),
            "entropy": tokens(_entropy(logits, cfg)),
            "clipped": tokens(held),
            "moved": tokens(pg.kl(old_BL, log_p_BL, "k3")),
        }
        total = terms["policy"] - cfg.entropy_weight * terms["entropy"]
        if cfg.reference:
            # The KL is a term of the loss and no part of the reward, so that it does not enter the comparison
            # within a group (Shao 2024).
            kl_BL = pg.kl(log_p_BL, batch.ref_BL, cfg.kl)
            total = total + mean(batch.coef_B[:, None] * kl_BL)
            terms["kl_loss"] = tokens(kl_BL)
        return total, Aux({**_told(batch, totals), **terms})

    return Objective(loss, _weigh(lm))


def assess_grpo(lm: LM, cfg: GrpoLoss = GrpoLoss()) -> Assess:
    """What a rollout is worth to GRPO: every token of a text has the text's advantage in its group."""

    def assess(params, frozen, said, reward_B, coef) -> Assessment:
        tree, mask_BL = merge(params, frozen), choice_mask(lm, said)
        zeros_BL = jnp.zeros(mask_BL.shape, jnp.float32)
        old_BL = ref_BL = zeros_BL
        kl_B = None
        if not cfg.on_policy:
            old_BL = _log_probs(lm, said, lm.outputs(tree, said, since=cfg.since).logits, cfg)
        if cfg.reference:
            ref_BL = _reference(lm, tree, said, cfg)
        if cfg.reference and not cfg.on_policy:
            kl_B = jnp.where(mask_BL, pg.kl(old_BL, ref_BL, "k1"), 0.0).sum(1)
        advantage_B = pg.group_advantages(reward_B, cfg.group, cfg.scale)
        advantage_BL = jnp.where(mask_BL, advantage_B[:, None], 0.0)
        # A group whose texts all earned the same has no advantages and teaches nothing; the log tells how many do.
        same_BG = reward_B.reshape(-1, cfg.group)
        told = {"groups_agreed": (same_BG.max(1) == same_BG.min(1)).mean()}
        coef_B = jnp.full_like(reward_B, coef)
        rollout = Rollout(None, old_BL, ref_BL, advantage_BL, zeros_BL, zeros_BL, coef_B, {})
        return Assessment(rollout, kl_B, told)

    return assess


# ------------------------------------------------------------------------------------------------ both


def drift(lm: LM, cfg: PpoLoss | GrpoLoss) -> Callable[[PyTree, PyTree, Rollout], Float[Array, ""]]:
    """(params, frozen, minibatch) -> KL from the policy that wrote to the present one, nats a token."""

    def moved(params, frozen, batch: Rollout):
        tree = merge(params, frozen)
        log_p_BL = _log_probs(
            lm, batch.said, lm.outputs(tree, batch.said, since=cfg.since).logits, cfg
        )
        return pg.masked_mean(pg.kl(batch.old_BL, log_p_BL, "k3"), choice_mask(lm, batch.said))

    return moved


def choice_mask(lm: LM, said: PyTree) -> Any:
    """[B, L]: the tokens that the policy chose. A row's first token never is: nothing comes before it."""
    return (jnp.asarray(lm.tokens(said).loss_BL) > 0).at[:, 0].set(False)


def _reference(lm: LM, tree: PyTree, said: PyTree, cfg: PpoLoss | GrpoLoss) -> Array:
    out = lm.outputs(lm.reference(tree), said, since=cfg.since)
    return _log_probs(lm, said, out.logits, cfg)


def _log_probs(lm: LM, said: PyTree, logits_BSV: Array, cfg: PpoLoss | GrpoLoss) -> Array:
    """[B, L] from logits of the places from `since` on; 0 up to there."""
    ids_BS = jnp.asarray(lm.tokens(said).ids_BL)[:, cfg.since :]
    return _padded(pg.token_log_probs(logits_BSV, ids_BS, cfg.temperature), cfg.since)


def _padded(x_BS: Array, since: int) -> Array:
    return jnp.pad(x_BS, ((0, 0), (since, 0)))


def _entropy(logits_BLV: Array, cfg: PpoLoss | GrpoLoss) -> Array:
    """[B, L]. Where it has no weight it is only looked at, and costs no backward pass."""
    if not cfg.entropy_weight:
        logits_BLV = jax.lax.stop_gradient(logits_BLV)
    return _padded(pg.token_entropy(logits_BLV, cfg.temperature), cfg.since)


def _told(batch: Rollout, totals: Any) -> dict[str, Array]:
    return {name: x_B.sum() / totals["rows"] for name, x_B in batch.told.items()}


def _weigh(lm: LM) -> Callable[[Rollout], dict[str, Float[Array, ""]]]:
    def weigh(batch: Rollout):
        mask_BL = choice_mask(lm, batch.said)
        tokens = jnp.maximum(mask_BL.sum(), 1).astype(jnp.float32)
        return {"tokens": tokens, "rows": jnp.float32(mask_BL.shape[0])}

    return weigh

"""Rollouts: a data source that lets the present policy write, has it rewarded, and hands that out in minibatches.

    source(step, params, state) -> (minibatch, state)

One rollout is `rows` texts; `epochs` times over they are handed out in `minibatches` shuffled parts, then the next
rollout is made from the parameters of that moment. The whole of it, buffer and place in it, is the source's state
and so in the checkpoint: a run that is stopped in the middle of a PPO epoch goes on bit for bit.

This room knows no model. What writes and what weighs come in as callables:

    play(params, index_R, seed)          -> Played: texts as an LM's batch, their rewards, what is to be reported
    assess(params, said, reward_R, coef) -> Assessed: log-probabilities, advantages, returns of what was played
    drift(params, minibatch)             -> how far the policy has moved from the one that wrote (KL, nats a token)
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct as struct
import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxrec.config import RunError
from jaxrec.data.source import Permutation

Tree = Any


class RolloutError(RunError, ValueError):
    """Sizes that do not fit each other, or a rollout that cannot be learned from."""


@dataclasses.dataclass(frozen=True)
class KlConfig:
    """The price of leaving the reference policy, `coef` a nat.

    adaptive: after each rollout the coefficient is multiplied by 1 + clip(kl / target - 1, -0.2, 0.2) rows / horizon
    (Ziegler 2019), kl being the mean sum over a text. Otherwise it stays what it is.
    """

    coef: float = 0.1
    adaptive: bool = True
    target: float = 6.0  # nats a text
    horizon: float = 1000.0  # texts


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """How many texts, and how often they are learned from."""

    rows: int = 32  # texts in a rollout
    group: int = 1  # of them to each prompt, neighbours in a rollout
    epochs: int = 4  # times that each text is learned from
    minibatches: int = 1  # parts of an epoch
    target_kl: float = 0.0  # above it the rest of a rollout is left; 0: never
    kl: KlConfig = KlConfig()
    running_scale: bool = False  # rewards over the deviation of all rewards so far
    seed: int = 0

    def __post_init__(self):
        if min(self.rows, self.group, self.epochs, self.minibatches) < 1:
            raise RolloutError(f"rollout: rows, group, epochs and minibatches are positive: {self}")
        if self.rows % self.group:
            raise RolloutError(
                f"rollout.group {self.group} does not divide the {self.rows} rows of a rollout"
            )
        if self.rows % self.minibatches:
            raise RolloutError(
                f"rollout.minibatches {self.minibatches} does not divide the {self.rows} rows of a rollout"
            )
        if self.kl.adaptive and (self.kl.target <= 0 or self.kl.horizon <= 0):
            raise RolloutError(
                f"rollout.kl: an adaptive coefficient needs a target and a horizon: {self.kl}"
            )

    @property
    def batch(self) -> int:
        """Rows of a minibatch."""
        return self.rows // self.minibatches

    @property
    def updates(self) -> int:
        """Minibatches that a rollout gives, when it is not cut short."""
        return self.epochs * self.minibatches


@struct.dataclass
class Rollout:
    """A batch of texts that a policy wrote. `said` is what the LM scores: its `loss` marks the tokens written.

    Arrays over tokens hold at place t what belongs to token t. `told`: numbers of each row that only go to the log.
    """

    said: Tree
    old_BL: Any  # log-probability under the policy that wrote
    ref_BL: Any  # under the reference
    advantage_BL: Any
    return_BL: Any
    value_BL: Any  # the value head's word at the time (0 without one)
    coef_B: Any  # the price of KL to the reference, the same in each row
    told: Mapping[str, Any]


class Playout(NamedTuple):
    """What was written: the LM's batch, a reward for each row, and numbers for the log, one a row."""

    said: Tree
    reward_R: Float[np.ndarray, " R"]
    told: Mapping[str, Float[np.ndarray, " R"]]


class Assessment(NamedTuple):
    """A Rollout but for `said` and `told`, each row's KL to the reference (summed over its tokens), and numbers for
    the log."""

    rollout: Rollout
    kl_R: Any  # None where nobody computed it
    told: Mapping[str, Any]


Play = Callable[[Tree, Int[np.ndarray, " R"], int], Playout]
Assess = Callable[[Tree, Tree, Float[np.ndarray, " R"], float], Assessment]
Drift = Callable[[Tree, Rollout], Float[Array, ""]]
Report = Callable[[int, Mapping[str, float]], None]  # (number of the rollout, its numbers)


class RolloutSource:
    """The source of `ppo` and `grpo`. A state's leaves keep their shapes from `init` on.

    Args:
      config: texts a rollout, passes over them, minibatches, and the price of KL.
      n_prompts: prompts are taken in an order that is shuffled anew each time that all had their turn.
      play: (params, numbers of prompts, seed) -> what was written, and its rewards.
      assess: (params, what was written, rewards, coefficient of KL) -> what the loss needs of it.
      like: a Played of the right shapes (its values are not looked at), from which the buffer is made.
      width: L of the rows that are scored.
      drift: (params, rollout) -> how far the policy has moved from the one that wrote it, for `target_kl`.
      report: told of each rollout once, as a dict of means: the rewards, `kl`, `coef`, `skipped` (minibatches left
        out so far) and whatever `play` and `assess` tell.
      tells_kl: whether `assess` gives the KL to the reference.
      prompts: what the prompts are, so that a resume knows them again.
    """

    def __init__(
        self,
        config: RolloutConfig,
        n_prompts: int,
        play: Play,
        assess: Assess,
        like: Playout,
        width: int,
        *,
        drift: Drift | None = None,
        report: Report | None = None,
        tells_kl: bool = True,
        prompts: Tree = None,
    ):
        if n_prompts < 1:
            raise RolloutError("rollout: there is no prompt to write to")
        if config.target_kl and drift is None:
            raise RolloutError(
                "rollout.target_kl needs `drift`, which measures how far the policy has moved"
            )
        if config.kl.adaptive and not tells_kl:
            raise RolloutError("rollout.kl.adaptive follows the KL, which `assess` does not tell")
        self.config, self.n_prompts, self.tells_kl = config, n_prompts, tells_kl
        self.play, self.assess, self.drift, self.report = play, assess, drift, report
        self._like, self._width, self._content = like, width, prompts

    def content(self) -> Tree:
        """The prompts, where they are given."""
        return self._content

    def init(self) -> dict[str, Tree]:
        """The state before the first rollout: an empty buffer whose place is its end."""
        zeros = lambda x: np.zeros(np.shape(x), np.asarray(x).dtype)
        said = jax.tree.map(zeros, self._like.said)
        tokens = np.zeros((self.config.rows, self._width), np.float32)
        row = np.zeros(self.config.rows, np.float32)
        names = (*self._like.told, *(["kl"] if self.tells_kl else []), "reward")
        buffer = Rollout(
            said, *[tokens.copy() for _ in range(5)], row, {n: row.copy() for n in names}
        )
        return {
            "seed": np.asarray(self.config.seed),
            "prompts": np.asarray(self.n_prompts),
            "rollouts": np.asarray(0),  # made so far
            "place": np.asarray(self.config.updates),  # minibatches of this rollout handed out
            "skipped": np.asarray(0),  # minibatches left out so far
            "coef": np.asarray(self.config.kl.coef, np.float64),
            "rewards": np.zeros(3, np.float64),  # count, mean, sum of squares about it
            "buffer": buffer,
        }

    def __call__(self, step: int, params: Tree, state: Tree) -> tuple[Rollout, Tree]:
        """The next minibatch, and the state after it."""
        del step
        state = dict(state)
        place = int(state["place"])
        if place >= self.config.updates or self._left(params, state):
            state["skipped"] = np.asarray(int(state["skipped"]) + self.config.updates - place)
            state, place = self._next_rollout(params, state), 0
        batch = self._part(state, place)
        state["place"] = np.asarray(place + 1)
        return batch, state

    def _left(self, params: Tree, state: Tree) -> bool:
        """Whether the policy has gone too far from the one that wrote the rest of this rollout."""
        place = int(state["place"])
        # At place 0 the policy is still the one that wrote: measuring would cost a forward pass for a KL of 0.
        if not self.config.target_kl or not 0 < place < self.config.updates:
            return False
        return float(self.drift(params, self._part(state, place))) > self.config.target_kl

    def _part(self, state: Tree, place: int) -> Rollout:
        """Minibatch `place` of the buffer: a function of the state alone."""
        epoch, part = divmod(place, self.config.minibatches)
        key = int(state["seed"]), int(state["rollouts"]), epoch
        size = self.config.batch
        # The shuffle is computed from numbers of the state and never stored, so a run that goes on in mid-epoch
        # hands out the same parts.
        own = np.arange(part * size, (part + 1) * size)
        if self.config.minibatches > 1:
            own = Permutation(self.config.rows, *key)(own)
        return jax.tree.map(lambda x: np.asarray(x)[own], state["buffer"])

    def _next_rollout(self, params: Tree, state: Tree) -> Tree:
        c, made = self.config, int(state["rollouts"])
        if int(state["prompts"]) != self.n_prompts:
            raise RolloutError(
                f"the run began with {int(state['prompts'])} prompts and now has {self.n_prompts}: give it the same"
            )
        index_R = self._prompts(int(state["seed"]), made)
        # an own seed for each rollout, below 2^31 less the rows: a row draws by seed + row
        seed = int(np.random.SeedSequence((int(state["seed"]), made)).generate_state(1)[0] >> 2)
        played = self.play(params, index_R, seed)
        reward_R = np.asarray(played.reward_R, np.float32)
        if bad := np.flatnonzero(~np.isfinite(reward_R)).tolist():
            raise RolloutError(f"rollout {made}: the reward of row {bad[0]} is {reward_R[bad[0]]}")
        rewards = _met(state["rewards"], reward_R)
        coef = float(state["coef"])
        # Only what is learned from is scaled; the log keeps the reward as it was given.
        learned = reward_R / _deviation(rewards) if c.running_scale else reward_R
        # The buffer is kept on the host: it goes into checkpoints, and it has to outlive parameters that every step
        # donates.
        found = jax.device_get(self.assess(params, played.said, np.float32(learned), coef))
        kl = {"kl": found.kl_R} if self.tells_kl else {}
        told = {**played.told, **kl, "reward": reward_R}
        buffer = found.rollout.replace(
            said=played.said, told={n: np.asarray(x, np.float32) for n, x in told.items()}
        )
        buffer = jax.tree.map(np.asarray, buffer)
        # A buffer of another shape or type would have the step compiled anew, and could not be restored from a
        # checkpoint.
        if (got := _layout(buffer)) != (wanted := _layout(state["buffer"])):
            raise RolloutError(f"rollout {made} has the layout {got}, the buffer {wanted}")
        numbers = {name: float(np.mean(x)) for name, x in told.items()}
        numbers |= {name: float(x) for name, x in found.told.items()}
        numbers |= {"coef": coef, "reward_deviation": float(np.std(reward_R))}
        numbers["skipped"] = int(state["skipped"])
        if self.report:
            self.report(made, numbers)
        return {
            **state,
            "rollouts": np.asarray(made + 1),
            "coef": np.asarray(adapt_kl(c.kl, coef, numbers.get("kl", 0.0), c.rows)),
            "rewards": rewards,
            "buffer": buffer,
        }

    def _prompts(self, seed: int, made: int) -> Int[np.ndarray, " R"]:
        """Which prompts rollout number `made` answers, each `group` times."""
        count = self.config.rows // self.config.group
        places = np.arange(made * count, (made + 1) * count)
        # A rollout may reach over the end of a turn; each place then belongs to the shuffle of its own turn, so
        # every prompt still comes once a turn.
        turns, own = np.divmod(places, self.n_prompts)
        picked = [
            int(Permutation(self.n_prompts, seed, int(turn))(np.array([place]))[0])
            for turn, place in zip(turns, own, strict=True)
        ]
        return np.repeat(np.asarray(picked), self.config.group)


def adapt_kl(config: KlConfig, coef: float, kl: float, rows: int) -> float:
    """The coefficient of KL after one more rollout: proportional control towards a target (Ziegler 2019).

    Args:
      config: the target, and over how many texts the coefficient may move.
      coef: what it was.
      kl: the mean KL to the reference, nats a text.
      rows: how many texts that is the mean of.
    """
    if not config.adaptive:
        return coef
    away = min(max(kl / config.target - 1, -0.2), 0.2)
    return coef * (1 + away * rows / config.horizon)


def _met(seen: Float[np.ndarray, "3"], reward_R: Float[np.ndarray, " R"]) -> Float[np.ndarray, "3"]:
    """Count, mean and squares about the mean, of what was seen and the new rewards (Chan 1979)."""
    count, mean, squares = (float(x) for x in seen)
    n, own = len(reward_R), float(np.mean(reward_R, dtype=np.float64))
    away = own - mean
    total = count + n
    new = float(np.sum(np.square(reward_R.astype(np.float64) - own)))
    return np.array(
        [total, mean + away * n / total, squares + new + away * away * count * n / total]
    )


def _deviation(rewards: Float[np.ndarray, "3"]) -> float:
    """Of all rewards met; 1 while there is none (so that equal rewards are left as they are)."""
    count, _, squares = (float(x) for x in rewards)
    return math.sqrt(squares / (count - 1)) if count > 1 and squares > 1e-12 else 1.0


def _layout(tree: Tree) -> list[tuple]:
    return [(np.shape(x), np.asarray(x).dtype.name) for x in jax.tree.leaves(tree)]

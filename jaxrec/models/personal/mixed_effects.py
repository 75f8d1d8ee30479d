"""Floor 3: a person as random effects: an offset of every label and a slope along what the pooled model sees.

    log p(label) = log_softmax(pooled log p of the item + b + s * level of the item),   [b, s] ~ N(mean, covariance)

A multinomial mixed-effects model (Hartzel, Agresti and Caffo 2001) on the pooled model's logits. Its prior is learned
from people of the training side by EM, everybody's posterior being Laplace's (empirical Bayes): who says "mild" for
"severe" seldom says "very severe" either, so one example tells of labels that it is not of, and what people do not
differ in is not fitted. With one variance for all offsets and no slopes this is `label_bias`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrec.data.judgement_folds import Cards

# EM narrows a spread slowly, so these rounds from a wide start are a choice and not its limit: from a start of 0.02
# people of a validation split were foretold worse.
ROUNDS = 20
START = 0.3  # variance of every effect, before anybody is seen
NEWTON = 6
DIAGONAL = 5.0  # people's worth of belief that the effects are not correlated
SIZES = (1.0, 0.5, 0.25, 0.1, 0.0)  # of a Newton step: the best of these is taken


@dataclasses.dataclass(frozen=True)
class Level:
    """The direction in which the pooled model's logits differ most between items: how severe it takes a text to be.

    mean_C: of the centred logits. direction_C: one unit of it is a standard deviation over the items.
    """

    mean_C: np.ndarray
    direction_C: np.ndarray

    @classmethod
    def of(cls, log_p_IC: Float[np.ndarray, "I C"]) -> "Level":
        """From the items of the training side."""
        logit_IC = _centred(log_p_IC)
        mean_C = logit_IC.mean(0)
        _, _, direction_KC = np.linalg.svd(logit_IC - mean_C, full_matrices=False)
        spread = ((logit_IC - mean_C) @ direction_KC[0]).std()
        # Where all items look alike there is no direction: the level is 0 everywhere.
        return cls(mean_C, direction_KC[0] / spread if spread > 1e-3 else 0 * direction_KC[0])

    def __call__(self, log_p_IC: Float[np.ndarray, "I C"]) -> Float[np.ndarray, "I F"]:
        """What effects weigh, of any items: 1 and the level, F = 2."""
        level_I = (_centred(log_p_IC) - self.mean_C) @ self.direction_C
        return np.stack([np.ones_like(level_I), level_I], 1).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class MixedEffects:
    """What effects people have, learned from some of them.

    level: how an item's logits are read. mean_E, cov_EE: over people, of E = 2 C effects (offsets, then slopes).
    """

    level: Level
    mean_E: np.ndarray
    cov_EE: np.ndarray

    @classmethod
    def of(cls, log_p_IC: Float[np.ndarray, "I C"], known: Cards) -> "MixedEffects":
        """Learned from the people of the training side.

        log_p_IC: the pooled model; of items of the training side by a fit that left them out. known: the people.
        """
        level = Level.of(log_p_IC[np.unique(known.item_US[known.mask_US])])
        shown_USC = log_p_IC[known.item_US]
        x_USF = level(log_p_IC)[known.item_US]
        mean_E, cov_EE = learn_prior(shown_USC, x_USF, known.label_US, known.mask_US)
        return cls(level, np.asarray(mean_E), np.asarray(cov_EE))

    def log_p(
        self, log_p_IC: Float[np.ndarray, "I C"], examples: Cards, k: int, asked: Cards
    ) -> Float[np.ndarray, "U S C"]:
        """Log p of labels by the most probable effects of each person.

        Args:
          log_p_IC: the pooled model, as for `of`.
          examples: judgements of the people who are asked.
          k: how many of them the effects are fitted to; with 0 everybody has the mean.
          asked: judgements whose labels are told, row by row the same people's.
        """
        x_IF = self.level(log_p_IC)
        shown_USC, x_USF = log_p_IC[examples.item_US], x_IF[examples.item_US]
        prior = self.mean_E, self.cov_EE
        effect_UE, _ = posterior(shown_USC, x_USF, examples.label_US, examples.first(k), *prior)
        moved = jax.vmap(_logits)(log_p_IC[asked.item_US], x_IF[asked.item_US], effect_UE)
        return np.asarray(jax.nn.log_softmax(moved))


def _centred(log_p_IC: np.ndarray) -> np.ndarray:
    """Logits are known up to a constant for each item: this is the one that makes their mean 0."""
    return log_p_IC - log_p_IC.mean(1, keepdims=True)


def _logits(log_p_SC: Array, x_SF: Array, effect_E: Array) -> Array:
    return log_p_SC + x_SF @ effect_E.reshape(x_SF.shape[1], -1)


@jax.jit
def posterior(
    log_p_USC: Array | np.ndarray,
    x_USF: Array | np.ndarray,
    label_US: Array | np.ndarray,
    mask_US: Array | np.ndarray,
    mean_E: Array | np.ndarray,
    cov_EE: Array | np.ndarray,
) -> tuple[Array, Array]:
    """Laplace's approximation of each person's effects: the most probable ones [U, E], and their covariance [U, E, E].

    Args:
      log_p_USC: the pooled model, of S judgements of U people.
      x_USF: what the effects weigh, of the same.
      label_US: what the people said.
      mask_US: which of the judgements are there; of somebody without any the prior is given back.
      mean_E: of the prior.
      cov_EE: of the prior, positive definite.
    """
    precision_EE = jnp.linalg.inv(cov_EE)

    def one(log_p_SC: Array, x_SF: Array, label_S: Array, mask_S: Array) -> tuple[Array, Array]:
        def lost(effect_E: Array) -> Array:
            told_SC = jax.nn.log_softmax(_logits(log_p_SC, x_SF, effect_E))
            picked_S = jnp.take_along_axis(told_SC, label_S[:, None], 1)[:, 0]
            away_E = effect_E - mean_E
            return 0.5 * away_E @ precision_EE @ away_E - jnp.sum(picked_S * mask_S)

        def step(_: Array, effect_E: Array) -> Array:
            # The loss is convex, but far from its least a full step may pass over it.
            direction_E = jnp.linalg.solve(jax.hessian(lost)(effect_E), jax.grad(lost)(effect_E))
            tried_TE = effect_E[None] - jnp.asarray(SIZES)[:, None] * direction_E[None]
            return tried_TE[jnp.argmin(jax.vmap(lost)(tried_TE))]

        effect_E = jax.lax.fori_loop(0, NEWTON, step, jnp.asarray(mean_E))
        return effect_E, jnp.linalg.inv(jax.hessian(lost)(effect_E))

    return jax.vmap(one)(log_p_USC, x_USF, label_US, mask_US)


@jax.jit
def learn_prior(
    log_p_USC: Array | np.ndarray,
    x_USF: Array | np.ndarray,
    label_US: Array | np.ndarray,
    mask_US: Array | np.ndarray,
) -> tuple[Array, Array]:
    """Mean [E] and covariance [E, E] of the effects over U people, by EM. Who has no judgement does not count.

    log_p_USC, x_USF, label_US, mask_US: as of `posterior`.
    """
    effects = x_USF.shape[-1] * log_p_USC.shape[-1]
    there_U = mask_US.any(1).astype(jnp.float32)
    people = jnp.maximum(there_U.sum(), 1.0)

    def one(_: Array, prior: tuple[Array, Array]) -> tuple[Array, Array]:
        effect_UE, cov_UEE = posterior(log_p_USC, x_USF, label_US, mask_US, *prior)
        mean_E = there_U @ effect_UE / people
        away_UE = (effect_UE - mean_E[None]) * there_U[:, None]
        # What is not known of a person counts as well, or the prior would narrow with every round.
        cov_EE = (away_UE.T @ away_UE + jnp.einsum("u,uef->ef", there_U, cov_UEE)) / people
        alone_EE = jnp.diag(jnp.diag(cov_EE))
        cov_EE = (people * cov_EE + DIAGONAL * alone_EE) / (people + DIAGONAL)
        return mean_E, cov_EE + 1e-5 * jnp.eye(effects)

    start = jnp.zeros(effects), START * jnp.eye(effects)
    return jax.lax.fori_loop(0, ROUNDS, one, start)

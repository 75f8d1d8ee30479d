"""Floor 3: how much of a person is an offset of their labels: one bias a label on the pooled model's logits.

    log p(label) = log_softmax(pooled log p of the item + b),   b the most probable under N(0, 1 / ridge)

A person who says "mild" wherever others say "severe" is told by these few numbers, and nothing else of them is. What a
profile p is worth beyond that is its gap to this row. The ridge is chosen on people of the training side, each of
whom shows k judgements and is asked for the others.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrec.data.judgement_folds import Cards

RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
STEPS = 200


def bias_log_p(
    log_p_IC: Float[np.ndarray, "I C"], known: Cards, examples: Cards, k: int, asked: Cards
) -> Float[np.ndarray, "U S C"]:
    """Log p of labels by the pooled model and biases of each person's own.

    Args:
      log_p_IC: the pooled model; of items of the training side by a fit that left them out, or a person's judgements
        would be held against what was learned from such judgements of the same items.
      known: people of the training side, on whom the ridge is chosen.
      examples: judgements of the people who are asked.
      k: how many of them the biases are fitted to.
      asked: judgements whose labels are told, row by row the same people's.
    """
    ridge = choose_ridge(log_p_IC, known, k)
    shown_USC = log_p_IC[examples.item_US]
    bias_UC = fit_biases(shown_USC, examples.label_US, examples.first(k), ridge)
    return np.asarray(jax.nn.log_softmax(log_p_IC[asked.item_US] + bias_UC[:, None]))


@jax.jit
def fit_biases(
    log_p_USC: Array | np.ndarray,
    label_US: Array | np.ndarray,
    mask_US: Array | np.ndarray,
    ridge: float | Array,
) -> Array:
    """The biases [U, C] of each person, the most probable ones by what they said.

    log_p_USC: the pooled model, of S judgements of U people. label_US: what they said. mask_US: which of them are
    there. ridge: the precision of the prior; more than 0, or somebody who always says the same has no finite bias.
    """
    said_USC = jax.nn.one_hot(label_US, log_p_USC.shape[-1])
    weight_US1 = mask_US[..., None].astype(log_p_USC.dtype)
    # The Hessian of a softmax is nowhere above a half (Boehning 1992), so this step never overshoots.
    curvature_U1 = 0.5 * weight_US1.sum(1) + ridge

    def step(_: Array, bias_UC: Array) -> Array:
        missed_USC = said_USC - jax.nn.softmax(log_p_USC + bias_UC[:, None])
        return bias_UC + ((missed_USC * weight_US1).sum(1) - ridge * bias_UC) / curvature_U1

    none_UC = jnp.zeros((len(log_p_USC), log_p_USC.shape[-1]), log_p_USC.dtype)
    return jax.lax.fori_loop(0, STEPS, step, none_UC)


def choose_ridge(log_p_IC: Float[np.ndarray, "I C"], known: Cards, k: int) -> float:
    """Of `RIDGES` the one by which k judgements of each person foretell their others best, in nats.

    Of a person with k judgements or fewer, all but the last are shown. With nothing to choose by (k = 0, say), the
    largest.

    log_p_IC: the pooled model. known: the people.
    """
    count_U = known.mask_US.sum(1)
    place_US = np.cumsum(known.mask_US, 1)
    shown_US = known.mask_US & (place_US <= np.minimum(k, count_U - 1)[:, None])
    asked_US = known.mask_US & ~shown_US
    log_p_USC = log_p_IC[known.item_US]
    lost = []
    for ridge in RIDGES:
        bias_UC = fit_biases(log_p_USC, known.label_US, shown_US, ridge)
        told = np.asarray(jax.nn.log_softmax(log_p_USC + bias_UC[:, None]))
        picked = np.take_along_axis(told, known.label_US[..., None], 2)[..., 0]
        lost.append(-float(picked[asked_US].sum()))
    # Where the ridges do equally well, the last and largest stands.
    return RIDGES[len(RIDGES) - 1 - int(np.argmin(lost[::-1]))]

"""InfoNCE: the same meaning close, everything else in the batch apart (van den Oord 2018)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def info_nce(
    a_BD: Float[Array, "B D"],
    b_BD: Float[Array, "B D"],
    temperature: float = 0.05,
    same_BB: Bool[Array, "B B"] | None = None,
) -> dict[str, Float[Array, ""]]:
    """Symmetric InfoNCE of cosine similarities, summed over rows; row i of `a` and of `b` mean the same.

    `same_BB` marks further pairs of like meaning: they are taken out of the negatives. On identical rows the sum
    is B log B. Returns `nce` and `hits` (rows whose partner is the nearest), both sums over rows.

    a_BD, b_BD: vectors of any length. temperature: what the cosines are divided by.
    """
    a = a_BD / (jnp.linalg.norm(a_BD, axis=-1, keepdims=True) + 1e-6)
    b = b_BD / (jnp.linalg.norm(b_BD, axis=-1, keepdims=True) + 1e-6)
    scores_BB = (a @ b.T).astype(jnp.float32) / temperature
    partner_BB = jnp.eye(len(a), dtype=bool)
    if same_BB is not None:
        scores_BB = jnp.where(same_BB & ~partner_BB, -jnp.inf, scores_BB)
    own = jnp.diagonal(scores_BB)
    there = jax.nn.logsumexp(scores_BB, axis=1) - own
    back = jax.nn.logsumexp(scores_BB, axis=0) - own
    return {
        "nce": jnp.sum(there + back) / 2,
        "hits": jnp.sum(own >= scores_BB.max(axis=1)).astype(jnp.float32),
    }

"""Floor 3: matrix factorisation as BPR trains it (Rendle 2009): a person's vector times an item's, plus a bias.

users/table [U E]   items/table [I W]      W = E + 1, the bias last
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxrec import tables

Tree = Any


def init(key: Array, users: int, items: int, width: int, std: float = 0.1) -> Tree:
    """Tables of normal numbers; biases of zero.

    Args:
      key: random.
      users, items: rows of the two tables.
      width: numbers of a row, without its bias.
      std: of the normal distribution.
    """
    keys = jax.random.split(key)
    # Bias and vector are one row, so that a step gathers and updates them together.
    item_IE = std * jax.random.normal(keys[1], (items, width))
    return {
        "users": {"table": std * jax.random.normal(keys[0], (users, width))},
        "items": {"table": jnp.concatenate([item_IE, jnp.zeros((items, 1))], 1)},
    }


def rows(
    params: Tree, user_B: Int[Array, " B"], item_BJ: Int[Array, "B J"]
) -> tuple[Float[Array, "B E"], Float[Array, "B J W"]]:
    """The rows that a batch asks for, from whole tables or from `tables.Rows`."""
    return (
        tables.lookup(params["users"]["table"], user_B),
        tables.lookup(params["items"]["table"], item_BJ),
    )


def scores(user_BE: Float[Array, "B E"], item_BJW: Float[Array, "B J W"]) -> Float[Array, "B J"]:
    """Inner product and bias."""
    return jnp.einsum("be,bje->bj", user_BE, item_BJW[..., :-1]) + item_BJW[..., -1]

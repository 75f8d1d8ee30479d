"""Floor 3: the value head of PPO: what a text will still earn, from the hidden state before each token."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrec.structs import PyTree


class ValueHead(nn.Module):
    """One number for each hidden state. It starts at zero everywhere, so it misleads nobody in the first rollout."""

    @nn.compact
    def __call__(self, hidden_BLD: Float[Array, "B L D"]) -> Float[Array, "B L"]:
        """The value of the state *behind* each token."""
        zeros = nn.initializers.zeros
        out = nn.Dense(1, kernel_init=zeros, name="out")(hidden_BLD.astype(jnp.float32))
        return out[..., 0]


def init_value(d_model: int) -> PyTree:
    """A value head's first parameters: zeros."""
    return ValueHead().init(jax.random.key(0), jnp.zeros((1, 1, d_model)))["params"]


def values_before(params: PyTree, hidden_BLD: Float[Array, "B L D"]) -> Float[Array, "B L"]:
    """The value of the state in which token t was chosen: that behind token t - 1. 0 at a row's first token."""
    behind_BL = ValueHead().apply({"params": params}, hidden_BLD)
    # Action t was chosen in the state behind token t - 1, so values move by one place to stand beside their action.
    return jnp.pad(behind_BL[:, :-1], ((0, 0), (1, 0)))

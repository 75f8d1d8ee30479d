"""Losses of residual vector quantisation (VQ-VAE, van den Oord 2017; RQ-VAE, Lee 2022). Sums over rows."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def reconstruction(made_BD: Float[Array, "B D"], given_BD: Float[Array, "B D"]) -> Float[Array, ""]:
    """Squared distance, summed over rows."""
    return jnp.square(made_BD - given_BD).sum()


def commitment(
    residual_QBE: Float[Array, "Q B E"], code_QBE: Float[Array, "Q B E"]
) -> Float[Array, ""]:
    """How far each level's residual lies from its code; moves the encoder, never the codebook."""
    return jnp.square(residual_QBE - jax.lax.stop_gradient(code_QBE)).sum()


def codebook(
    residual_QBE: Float[Array, "Q B E"], code_QBE: Float[Array, "Q B E"]
) -> Float[Array, ""]:
    """The same distance; moves the codebook, never the encoder."""
    return jnp.square(jax.lax.stop_gradient(residual_QBE) - code_QBE).sum()


def straight_through(
    z_BE: Float[Array, "B E"], code_BE: Float[Array, "B E"]
) -> Float[Array, "B E"]:
    """The codes' value with z's gradient, unchanged (Bengio 2013)."""
    return z_BE + jax.lax.stop_gradient(code_BE - z_BE)


def rotate(z_BE: Float[Array, "B E"], code_BE: Float[Array, "B E"]) -> Float[Array, "B E"]:
    """The codes' value, as a rotation and stretching of z that is held constant (Fifty 2024, the rotation trick).

    The gradient keeps its angle to the vector it belongs to: d out / d z = |code| / |z| R, where R turns z's direction
    into the code's. A z of zero falls back to the straight-through gradient.
    """
    still = jax.lax.stop_gradient
    size_z = jnp.linalg.norm(still(z_BE), axis=-1, keepdims=True)
    size_c = jnp.linalg.norm(still(code_BE), axis=-1, keepdims=True)
    unit_z, unit_c = (
        still(z_BE) / jnp.maximum(size_z, 1e-9),
        still(code_BE) / jnp.maximum(size_c, 1e-9),
    )
    # The rotation from unit_z to unit_c is I - 2 h h^T + 2 c z^T, h being the normalised sum of the two (Fifty
    # 2024). It is applied by inner products; a matrix for each row never exists.
    half = unit_z + unit_c
    half = half / jnp.maximum(jnp.linalg.norm(half, axis=-1, keepdims=True), 1e-9)
    along = lambda unit: (unit * z_BE).sum(-1, keepdims=True)
    turned = (size_c / jnp.maximum(size_z, 1e-9)) * (
        z_BE - 2 * half * along(half) + 2 * unit_c * along(unit_z)
    )
    # the value is the code's to the last bit, whatever rounding the rotation does
    turned = turned + still(code_BE - turned)
    return jnp.where(size_z > 1e-9, turned, straight_through(z_BE, code_BE))

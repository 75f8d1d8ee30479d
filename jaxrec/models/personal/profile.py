"""p from what is known of a person: an encoder that reads a set of evidence vectors in one pass.

    Evidence [B, S] --(z + kind + label)--> tokens --> learned queries attend --> MLP --> p [B, E]

Learned queries that attend to a set are the Set Transformer's pooling (Lee 2019) and Perceiver's latents (Jaegle 2021):
the order of the evidence does not matter, its amount may vary, and with none p is the encoder's answer for a stranger.
From there `fit_profiles` can go on by gradient: every person at once, each by their own examples alone.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct as struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from jaxrec import mesh as meshes
from jaxrec.nn.attention import attend
from jaxrec.structs import Leaf


@struct.dataclass
class Evidence:
    """S vectors known of each of B persons: what (`kind`), how judged (`label`, -1 to 1), which are there (`mask`)."""

    z_BSD: Leaf  # numpy on the way in
    kind_BS: Leaf
    label_BS: Leaf
    mask_BS: Leaf


@dataclasses.dataclass(frozen=True)
class ProfileEncoderConfig:
    """Size of a profile encoder.

    `prior` is how many pieces of evidence that say nothing (zero keys and values) each query also sees: with few real
    pieces p then stays near the stranger's, as a Bayesian's would. 0: every amount of evidence is believed alike.
    """

    d_z: int = 128
    d_p: int = 64
    kinds: int = 3
    width: int = 128
    queries: int = 8
    heads: int = 4
    prior: int = 0
    centred: bool = False  # z less its training mean, by its spread: see `centre_of`


class ProfileEncoder(nn.Module):
    """Attention pooling by several learned queries, then a small MLP."""

    cfg: ProfileEncoderConfig

    @nn.compact
    def __call__(self, evidence: Evidence) -> Float[Array, "B E"]:
        """p of each row. A row without evidence gives the same p whoever it is."""
        c, evidence = self.cfg, meshes.put(evidence, "rows")
        kind = nn.Embed(c.kinds, c.width, name="kind")(evidence.kind_BS)
        z_BSD = evidence.z_BSD
        if c.centred:
            # Facts of the training set and no weights: whoever trains sets them once, and no gradient moves them.
            ones, zeros = nn.initializers.ones, nn.initializers.zeros
            mean_D = self.param("z_mean", zeros, (c.d_z,))
            spread_1 = self.param("z_spread", ones, (1,))
            mean_D, spread_1 = jax.lax.stop_gradient((mean_D, spread_1))
            z_BSD = (z_BSD - mean_D[None, None]) / spread_1[None, None]
        x = nn.Dense(c.width, name="into")(z_BSD) + kind
        x = nn.LayerNorm(name="norm")(
            nn.gelu(x + nn.Dense(c.width, name="label")(evidence.label_BS[..., None]))
        )
        # `attend` wants heads apart, [B, S, H, K], and gives one vector for each of the queries.
        size = c.width // c.heads
        split = lambda y: y.reshape(*y.shape[:2], c.heads, size)
        query = self.param("query", nn.initializers.normal(1.0), (1, c.queries, c.heads, size))
        # The queries are parameters, the same for everybody; only keys and values come from the person.
        query = jnp.broadcast_to(query, (x.shape[0], *query.shape[1:]))
        k, v = split(nn.Dense(c.width, name="k")(x)), split(nn.Dense(c.width, name="v")(x))
        seen = evidence.mask_BS
        if c.prior:
            ahead = lambda y: jnp.pad(y, ((0, 0), (c.prior, 0), (0, 0), (0, 0)))
            # A zero key gets the score 0 whatever the query is, and a zero value adds nothing: the more real pieces
            # there are, the smaller the share of these.
            k, v = ahead(k), ahead(v)
            seen = jnp.pad(seen, ((0, 0), (c.prior, 0)), constant_values=True)
        seen = jnp.broadcast_to(seen[:, None, :], (x.shape[0], c.queries, k.shape[1]))
        pooled = attend(query, k, v, seen).reshape(x.shape[0], -1)
        return nn.Dense(c.d_p, name="out")(nn.gelu(nn.Dense(c.width, name="mix")(pooled)))


def centre_of(z_ND: Float[np.ndarray, "N D"]) -> dict[str, np.ndarray]:
    """The two parameters of a centred encoder, of all vectors that there are to learn from: their mean and spread.

    Z of a large backbone stands far from zero, much the same for everybody, and a dense layer that begins on it tells
    nobody apart.
    """
    mean_D = z_ND.mean(0, dtype=np.float64)
    spread = np.sqrt(np.square(z_ND - mean_D).mean(dtype=np.float64))
    return {
        "z_mean": mean_D.astype(np.float32),
        "z_spread": np.float32([max(spread, 1e-6)]),
    }


@struct.dataclass
class Gaussian:
    """What p is like before a person's examples are seen: a mean for each person (or for all) and a spread."""

    mean_UE: Array  # [U, E], or [1, E]
    std_E: Array

    @classmethod
    def of(cls, p_UE: Array, floor: float = 1e-2) -> "Gaussian":
        """Mean and spread over known people (empirical Bayes); no direction is narrower than `floor`."""
        return cls(p_UE.mean(0, keepdims=True), jnp.maximum(p_UE.std(0), floor))


@dataclasses.dataclass(frozen=True)
class ProfileFitConfig:
    """Gradient fitting of p: Adam steps on -log p(examples | p) - log prior(p).

    `spread` times the prior's standard deviation is what a p may reasonably move: small keeps it near its start.
    """

    steps: int = 30
    lr: float = 0.1
    spread: float = 1.0


def fit_profiles(
    loss: Callable[[Float[Array, " E"], PyTree], Float[Array, ""]],
    start_UE: Float[Array, "U E"],
    examples: PyTree,
    prior: Gaussian,
    cfg: ProfileFitConfig = ProfileFitConfig(),
) -> Float[Array, "U E"]:
    """The most probable p (MAP) of U people at once; nobody's examples touch another's p.

    Works in units of the prior's spread, so that one step size suits every direction of p.

    Args:
      loss: (p, one person's examples) -> the *sum* of -log likelihood over them; 0 where there are none.
      start_UE: where each p begins: the encoder's, or the mean. Without examples and with the prior's mean as start,
        p stays there.
      examples: a tree whose leaves lead with U, padded to one length, with a mask that `loss` heeds.
      prior: what p is like before a person's examples are seen.
      cfg: how many steps, how large, and how far from the prior's mean.
    """
    # A direction in which people hardly differ moves little, one in which they do moves far, at the same learning rate.
    scale_E = prior.std_E * cfg.spread
    mean_UE = jnp.broadcast_to(prior.mean_UE, start_UE.shape)
    adam = optax.adam(optax.cosine_decay_schedule(cfg.lr, cfg.steps))

    def one(start_E: Array, mean_E: Array, own: Any) -> Array:
        # w is standard normal under the prior, so -log prior is |w|^2 / 2 up to a constant.
        objective = lambda w: loss(mean_E + w * scale_E, own) + 0.5 * jnp.sum(w**2)

        def step(carry: tuple, _: None) -> tuple[tuple, None]:
            w, state = carry
            moved, state = adam.update(jax.grad(objective)(w), state)
            return (w + moved, state), None

        # The start need not be the prior's mean: the encoder's p is where the search begins, not what it is pulled to.
        w = (start_E - mean_E) / scale_E
        # A scan and not unrolled: the program stays as small for 300 steps as for 3.
        (w, _), _ = jax.lax.scan(step, (w, adam.init(w)), None, length=cfg.steps)
        return mean_E + w * scale_E

    # vmap, with an Adam state for each person: nobody's gradient scales another's step.
    return meshes.map_rows(one)(start_UE, mean_UE, examples)

"""TPH B: scores N actions, or candidates, from z and p. Small, stable, and the cheapest way for p to matter.

    z_cls [B, (Q,) D] (+ z_seq, pooled by a query that p moves) --> h --FiLM(p)--> actions
                                          p --> a leaning of each action            (add)
                                   (U p) * (V z) --> actions, low rank              (bilinear)

A candidate is scored as one action: give its vector beside the text's.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrec import mesh as meshes

ENTRANCES = ("add", "film", "bilinear")


@dataclasses.dataclass(frozen=True)
class SelectorConfig:
    """Size of a selector, and how p enters: any of "add", "film" and "bilinear"; () leaves p out.

    `width` 0: scores are linear in z. With `tokens` the selector reads z_seq too.
    """

    d_z: int = 384
    d_p: int = 128
    actions: int = 2
    width: int = 64
    rank: int = 8
    p_enters: tuple[str, ...] = ENTRANCES
    tokens: bool = False

    def __post_init__(self) -> None:
        if unknown := [name for name in self.p_enters if name not in ENTRANCES]:
            raise ValueError(f"p can't enter by {unknown[0]!r}: one of {', '.join(ENTRANCES)}")
        if "film" in self.p_enters and not self.width:
            raise ValueError("film changes the hidden layer, and width 0 leaves none")


class Selector(nn.Module):
    """Scores of actions for each row of z, or for each of Q texts of a row that share its p."""

    cfg: SelectorConfig

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "B *q D"],
        p_BE: Float[Array, "B E"] | None = None,
        base: Float[Array, "B *q W"] | None = None,
        z_seq_BLD: Float[Array, "B L T"] | None = None,
        mask_BL: Bool[Array, "B L"] | None = None,
    ) -> Float[Array, "B *q W"]:
        """Logits of the actions.

        Args:
          z: what is chosen for, any number of them for each person.
          p_BE: who chooses; None only where p enters nowhere.
          base: logits that are known beforehand (those of a model that knows no person): the answer is added to a
            learned multiple of them.
          z_seq_BLD, mask_BL: the text's tokens, where the config says so.
        """
        c = self.cfg
        if bool(c.p_enters) != (p_BE is not None):
            raise ValueError(
                f"p enters by {c.p_enters}, but p is {'' if p_BE is None else 'not '}None"
            )
        if c.tokens:
            if z_seq_BLD is None or mask_BL is None:
                raise ValueError("this selector reads tokens: give z_seq_BLD and mask_BL")
            z = jnp.concatenate([z, self._pool(z, p_BE, z_seq_BLD, mask_BL)], -1)
        # One p serves all Q texts of a row: axes of 1 stand where z has its texts.
        p = None if p_BE is None else jnp.expand_dims(p_BE, range(1, z.ndim - 1))
        z, p = meshes.put((z, p), "rows")
        h = nn.gelu(nn.Dense(c.width, name="into")(z)) if c.width else z
        small = nn.initializers.normal(0.02)
        if "film" in c.p_enters:
            gamma, beta = jnp.split(nn.Dense(2 * c.width, kernel_init=small, name="film")(p), 2, -1)
            h = h * (1 + gamma) + beta
        # nothing is known of z at first: the scores begin at the bias, or at `base`
        logits = nn.Dense(c.actions, kernel_init=small, name="out")(h)
        if "add" in c.p_enters:
            logits = logits + nn.Dense(c.actions, use_bias=False, kernel_init=small, name="add")(p)
        if "bilinear" in c.p_enters:
            # A bilinear form of low rank, (U p) * (V z): a taste for one content and not another, which no sum can say.
            meet = nn.Dense(c.rank, name="of_z")(z) * nn.Dense(c.rank, name="of_p")(p)
            logits = logits + nn.Dense(c.actions, kernel_init=small, name="meet")(meet)
        if base is not None:
            # Begins at 1: before training the answer is that of the model which knows no person.
            logits = logits + base * self.param("trust", nn.initializers.ones, (1,) * base.ndim)
        return logits

    def _pool(self, z: Array, p_BE: Array | None, z_seq_BLD: Array, mask_BL: Array) -> Array:
        """One vector of the tokens that matter to this person: attention with a query that p moves."""
        width = z_seq_BLD.shape[-1]
        query_BD = self.param("query", nn.initializers.normal(0.02), (1, width))
        if p_BE is not None:
            query_BD = query_BD + nn.Dense(width, use_bias=False, name="query_of_p")(p_BE)
        score_BL = jnp.sum(z_seq_BLD * query_BD[:, None, :], -1) / width**0.5
        # -1e9 and not -inf: a row without tokens then gets an even mixture instead of NaN.
        share_BL = jax.nn.softmax(jnp.where(mask_BL, score_BL, -1e9), -1)
        pooled_BD = jnp.einsum("bl,bld->bd", share_BL, z_seq_BLD)
        lead = jnp.expand_dims(pooled_BD, range(1, z.ndim - 1))
        return jnp.broadcast_to(lead, (*z.shape[:-1], width))

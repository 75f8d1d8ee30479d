"""Floor 4: what holds a tenant's head back: nearness to a reference policy, and words that it may not say.

Both are optional terms of `universal` and `personalize`, off by default; a term of weight 0 is not computed at all.
"""

import dataclasses
from typing import Any, Literal, get_args

from jaxtyping import Array

from jaxrec.losses.preference import policy_kl
from jaxrec.losses.tokens import disallowed_tokens
from jaxrec.structs import Tokens


@dataclasses.dataclass(frozen=True)
class Restraint:
    """Weights of KL(policy || reference) and of the penalty on disallowed tokens, both nats a token.

    kl: the reference of `personalize` is the policy at the p that personalisation began with (frozen["start"]); the
    universal stage names one of `REFERENCES`. penalty: frozen["disallowed"] [U, V] says which tokens a tenant must
    never say (rivals' terms, forbidden claims); the term is the binary cross-entropy of their probability.
    """

    kl: float = 0.0
    penalty: float = 0.0

    def __post_init__(self) -> None:
        if self.kl < 0 or self.penalty < 0:
            raise ValueError(f"weights of restraint must be 0 or more: {self}")

    @property
    def needs(self) -> bool:
        """Whether there is any term."""
        return bool(self.kl or self.penalty)


NONE = Restraint()

# What the universal stage's KL is taken to: the same model for nobody in particular (p = 0, as the rows of `p_dropout`
# see it), the teacher, the backbone as it is, or an earlier head and hypernetwork in frozen["reference"].
Reference = Literal["stranger", "teacher", "backbone", "earlier"]
REFERENCES: tuple[str, ...] = get_args(Reference)


def restraint_terms(
    restraint: Restraint, tree: Any, logits: Array, reference: Any, answer: Tokens, tenant_B: Array
) -> dict[str, Array]:
    """The terms by row: `kl`, and `penalty` with `mass` and `excepted`; only those that have a weight.

    Args:
      restraint: the weights.
      tree: all parts; "disallowed" is read where there is a penalty.
      logits: of the policy, [B, L, V].
      reference: () -> logits of the reference policy, called where it is needed and nowhere else.
      answer: the token rows that the logits are of.
      tenant_B: whose they are, rows of tree["disallowed"].

    Raises ValueError where a penalty does not know what is disallowed.
    """
    terms = {}
    if restraint.kl:
        terms["kl"] = policy_kl(logits, reference(), answer.loss_BL)
    if restraint.penalty:
        if "disallowed" not in tree:
            raise ValueError(
                "a penalty needs frozen['disallowed'], the tokens that each tenant may not say"
            )
        barred_BV = tree["disallowed"][tenant_B]
        terms |= disallowed_tokens(logits, answer.ids_BL, answer.loss_BL, barred_BV)
    return terms


def restraint_loss(restraint: Restraint, terms: dict[str, Array]) -> Array | float:
    """What the terms add to a loss, given per token."""
    return restraint.kl * terms.get("kl", 0.0) + restraint.penalty * terms.get("penalty", 0.0)

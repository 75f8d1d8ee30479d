"""Floor 4: what holds a tenant's head back: nearness to a reference policy, and words that it may not say.

Both are optional terms of `universal` and `personalize`, off by default; a term of weight 0 is not computed at all.
"""

import dataclasses
from typing import Any

from jaxtyping import Array

from jaxrec.losses.disallowed import disallowed_tokens
from jaxrec.losses.preference import policy_kl
from jaxrec.structs import Tokens


@dataclasses.dataclass(frozen=True)
class Restraint:
    """Weights of KL(head || reference) and of the penalty on disallowed tokens, both nats a token.

    kl: the reference is the head at the p that personalisation began with (frozen["start"]); of the universal stage,
    the head and hypernetwork in frozen["reference"]. penalty: frozen["disallowed"] [U, V] says which tokens a tenant
    must never say (rivals' terms, forbidden claims); the term is the binary cross-entropy of their probability.
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


def restrained(
    restraint: Restraint, tree: Any, logits: Array, reference: Any, answer: Tokens, tenant_B: Array
) -> dict[str, Array]:
    """The terms by row: `kl`, and `penalty` with `mass` and `excepted`; only those that have a weight.

    reference: () -> logits of the reference policy, called where it is needed and nowhere else.
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


def added(restraint: Restraint, terms: dict[str, Array]) -> Array | float:
    """What the terms add to a loss, given per token."""
    return restraint.kl * terms.get("kl", 0.0) + restraint.penalty * terms.get("penalty", 0.0)

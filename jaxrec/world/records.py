"""What the sample world's tenants have beside what every `Tenant` has: a style to check answers against, and facts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxrec.data.tenant import Tenant, Turn
from jaxrec.world.style import Style

# What a question can be about: the routing labels, of generated and hand-written dialogues alike.
TOPICS = (
    "booking",
    "cancellation",
    "care",
    "complaint",
    "contact",
    "delivery",
    "discount",
    "gift_card",
    "hours",
    "location",
    "parking",
    "payment",
    "price",
    "product",
    "refund",
    "safety",
    "warranty",
)


@dataclass(frozen=True)
class Trace:
    """A general instruction and its answer; a tool trace has a call, the tool's result, and then the answer."""

    id: str
    family: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True, kw_only=True)
class WorldTenant(Tenant):
    """A business of the sample world; generated and hand-written ones are the same.

    `onboarding` and `heldout` share no question wording. `held_out` tenants are for no training stage but their
    own onboarding. `facts[topic][slot]` is what the pages say, where it is planted.
    """

    trade: str
    temper: str
    held_out: bool
    style: Style
    facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

"""The sample world's records. Generated tenants and hand-written businesses are the same `Tenant`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

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
class Turn:
    """One utterance; `role` is "customer" or "assistant" (in a tool trace also "tool")."""

    role: str
    text: str


@dataclass(frozen=True)
class Page:
    """A page of a tenant's knowledge base, in plain prose and in no tenant's voice."""

    id: str
    title: str
    text: str


@dataclass(frozen=True)
class Dialogue:
    """A conversation that ends with the assistant's answer to the last question.

    `topic` labels the last question (the routing label), `pages` names the pages that answer it. `facts` are the
    values that a right answer contains, where they are planted (generated tenants); empty where they are not known.
    """

    id: str
    topic: str
    pages: tuple[str, ...]
    turns: tuple[Turn, ...]
    facts: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        """The last thing that the customer said."""
        return self.turns[-2].text

    @property
    def answer(self) -> str:
        """The last thing that the assistant said."""
        return self.turns[-1].text


@dataclass(frozen=True)
class Trace:
    """A general instruction and its answer; a tool trace has a call, the tool's result, and then the answer."""

    id: str
    family: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Preference:
    """One question, the answer that the tenant likes and the one it does not, and in what they differ."""

    id: str
    question: str
    chosen: str
    rejected: str
    why: str


@dataclass(frozen=True)
class Feedback:
    """One labelled answer: thumbs up or thumbs down."""

    id: str
    question: str
    answer: str
    liked: bool


@dataclass(frozen=True)
class Tenant:
    """A business: its style, its style guide in prose, its pages, and its conversations.

    `onboarding` and `heldout` share no question wording. `held_out` tenants are for no training stage but their
    own onboarding. `facts[topic][slot]` is what the pages say, where it is planted.
    """

    key: str
    name: str
    trade: str
    temper: str
    held_out: bool
    style: Style
    guide: str
    pages: tuple[Page, ...]
    onboarding: tuple[Dialogue, ...]
    preferences: tuple[Preference, ...]
    heldout: tuple[Dialogue, ...]
    facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def feedback(self) -> tuple[Feedback, ...]:
        """The preference pairs as single labelled answers: up and down alternate."""
        rows = []
        for pair in self.preferences:
            rows.append(Feedback(f"{pair.id}-up", pair.question, pair.chosen, True))
            rows.append(Feedback(f"{pair.id}-down", pair.question, pair.rejected, False))
        return tuple(rows)

    def page(self, page_id: str) -> Page:
        """The page of this id; a KeyError names the tenant and the pages that there are."""
        for page in self.pages:
            if page.id == page_id:
                return page
        raise KeyError(f"{self.key} has no page {page_id!r}; it has {[p.id for p in self.pages]}")

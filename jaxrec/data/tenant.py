"""A tenant: whoever a model should speak for. Only a key is needed; whatever else there is, is learned from.

`jaxrec.data.tenants.read_tenants` makes them of files; the sample world's (`jaxrec.world.records.WorldTenant`) know
more of themselves, so that answers can be checked.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """One utterance; `role` is "customer" or "assistant" (also "system", and in a tool trace "tool")."""

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

    turns: two at least. topic: what the last question is about, a label for routing; pages: ids of the pages that
    answer it; facts: values that a right answer contains. The last three are empty where they are not known.
    """

    id: str
    turns: tuple[Turn, ...]
    topic: str = ""
    pages: tuple[str, ...] = ()
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
class Preference:
    """One question, the answer that the tenant likes and the one it does not.

    why: in what they differ, where somebody said it. before: the turns that came before the question.
    """

    id: str
    question: str
    chosen: str
    rejected: str
    why: str = ""
    before: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class Feedback:
    """One labelled answer: thumbs up or thumbs down. before: the turns that came before the question."""

    id: str
    question: str
    answer: str
    liked: bool
    before: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class Tenant:
    """Whoever a model should speak for: a shop, a clinic, a person.

    key: its name in commands and tables, one of its own. name: as people write it; the key when empty. guide: how it
    wants to sound, in prose. pages: its knowledge base. onboarding: conversations to learn from. heldout: others, to
    measure on, never learned from. preferences, thumbs: what it thinks of answers. never: words that it never says.
    """

    key: str
    name: str = ""
    guide: str = ""
    pages: tuple[Page, ...] = ()
    onboarding: tuple[Dialogue, ...] = ()
    heldout: tuple[Dialogue, ...] = ()
    preferences: tuple[Preference, ...] = ()
    thumbs: tuple[Feedback, ...] = ()
    never: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.key.strip():
            raise ValueError("a tenant needs a key: a name of its own")
        if not self.name:
            object.__setattr__(self, "name", self.key)

    @property
    def feedback(self) -> tuple[Feedback, ...]:
        """Single labelled answers: both of each preference pair, up and down alternating, then the thumbs."""
        rows = []
        for pair in self.preferences:
            rows.append(Feedback(f"{pair.id}-up", pair.question, pair.chosen, True, pair.before))
            rows.append(
                Feedback(f"{pair.id}-down", pair.question, pair.rejected, False, pair.before)
            )
        return (*rows, *self.thumbs)

    def page(self, page_id: str) -> Page:
        """The page of this id; a KeyError names the tenant and the pages that there are."""
        for page in self.pages:
            if page.id == page_id:
                return page
        raise KeyError(f"{self.key} has no page {page_id!r}; it has {[p.id for p in self.pages]}")

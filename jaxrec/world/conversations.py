"""What a generated tenant is asked and what it answers: onboarding, preference pairs, held-out dialogues."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from jaxrec.data.tenant import Dialogue, Preference, Turn
from jaxrec.world import grammar
from jaxrec.world.records import WorldTenant
from jaxrec.world.style import (
    DISCLAIMER,
    FORMALITY,
    GREETING,
    LENGTH,
    OPENER,
    REGISTER,
    SIGN_OFF,
    Style,
    dress,
    lower_first,
)

ONBOARDING, HELD_OUT, PREFERENCES = 60, 24, 30
PREFIXES = ("Hi, ", "Hello. ", "Quick question: ", "Good morning. ", "Excuse me, ")
# The attributes that a rejected answer may have changed: those that every answer shows.
RIVAL = {
    "formality": FORMALITY,
    "length": LENGTH,
    "register": REGISTER,
    "greeting": GREETING,
    "sign_off": SIGN_OFF,
    "disclaimer": DISCLAIMER,
}


def with_conversations(rng: Random, tenant: WorldTenant) -> WorldTenant:
    """The tenant with all its conversations; no question is asked twice.

    Held-out questions about an item's price or care are about items that the onboarding told of, so that everything
    that is asked can be known from the onboarding alone.
    """
    talk = Talk(rng, tenant)
    onboarding = tuple(talk.dialogue(f"on-{i:02d}", "ask", t) for i, t in _rounds(rng, ONBOARDING))
    known = {topic: sorted(talk.asked[topic]) for topic in ("price", "care")}
    preferences = tuple(talk.preference(f"pref-{i:02d}", t) for i, t in _rounds(rng, PREFERENCES))
    talk.items = known
    held = tuple(
        talk.dialogue(f"held-{i:02d}", "ask_heldout", t) for i, t in _rounds(rng, HELD_OUT)
    )
    return replace(tenant, onboarding=onboarding, preferences=preferences, heldout=held)


def _rounds(rng: Random, count: int) -> list[tuple[int, str]]:
    """(index, topic): all topics in a new order, again and again."""
    order: list[str] = []
    while len(order) < count:
        order += rng.sample(sorted(grammar.topics()), len(grammar.topics()))
    return list(enumerate(order[:count]))


@dataclass
class Talk:
    """A tenant at its counter.

    `seen` are the questions asked so far and `asked` the items that they were about, by topic; `items` narrows a
    topic to some of the goods.
    """

    rng: Random
    tenant: WorldTenant
    seen: set[str] = field(default_factory=set)
    asked: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    items: dict[str, Sequence[str]] = field(default_factory=dict)

    def dialogue(self, suffix: str, wordings: str, topic: str) -> Dialogue:
        """One exchange, or (one time in five) two, of which the first is on another topic."""
        topics = [topic]
        if self.rng.random() < 0.2:
            topics.insert(0, self.rng.choice([t for t in grammar.topics() if t != topic]))
        turns: list[Turn] = []
        said: Mapping[str, str] = {}
        for each in topics:
            question, item, service = self.question(wordings, each)
            said = grammar.right_facts(self.tenant.facts, each, item)
            text = self.answer(each, item, service, self.tenant.style, said)
            turns += [Turn("customer", question), Turn("assistant", text)]
        key, facts = f"{self.tenant.key}-{suffix}", tuple(said.values())
        return Dialogue(key, tuple(turns), topic, tuple(topics), facts)

    def preference(self, suffix: str, topic: str) -> Preference:
        """The tenant's own answer against one in a rival style (two times in three) or with a wrong fact."""
        question, item, service = self.question("ask", topic)
        style, said = self.tenant.style, grammar.right_facts(self.tenant.facts, topic, item)
        chosen = self.answer(topic, item, service, style, said)
        if self.rng.random() < 1 / 3:
            said, why = (
                grammar.redraw(self.rng, self.tenant.facts, topic, item),
                "states a wrong fact",
            )
        else:
            changed = self.rng.sample(sorted(RIVAL), self.rng.choice((1, 2, 3)))
            style, why = self._rival(changed), "wrong " + ", ".join(changed)
        rejected = self.answer(topic, item, service, style, said)
        return Preference(f"{self.tenant.key}-{suffix}", question, chosen, rejected, why)

    def question(self, wordings: str, topic: str) -> tuple[str, str, str]:
        """(question, item, service): one that was not asked before. A customer knows none of the tenant's terms."""
        tenant, rng = self.tenant, self.rng
        table = grammar.trades()[tenant.trade]
        while True:
            item = rng.choice(self.items.get(topic, table["goods"]))
            service = rng.choice(table["services"])
            words = grammar.slots(tenant.name, tenant.trade, None, item, service)
            words |= grammar.right_facts(tenant.facts, topic, item)
            text = rng.choice(grammar.topics()[topic][wordings]).format_map(words)
            if rng.random() < 0.25 or text in self.seen:
                prefix = rng.choice(PREFIXES)
                text = prefix + (text if prefix.endswith(". ") else lower_first(text))
            if text not in self.seen:
                self.seen.add(text)
                self.asked[topic].add(item)
                return text, item, service

    def answer(
        self, topic: str, item: str, service: str, style: Style, said: Mapping[str, str]
    ) -> str:
        """An answer that states these facts in this style: the tenant's own, or a rival's.

        topic: what was asked about. item, service: the tenant's, where the topic has one. said: slot -> value to state.
        """
        words = grammar.slots(self.tenant.name, self.tenant.trade, style, item, service)
        lines = grammar.sentences(self.rng, topic, words, said, style)
        group = OPENER.get((style.register, style.formality))
        return dress(lines, style, self.rng.choice(group) if group else "")

    def _rival(self, changed: Sequence[str]) -> Style:
        own = self.tenant.style
        return replace(
            own,
            **{a: self.rng.choice([v for v in RIVAL[a] if v != getattr(own, a)]) for a in changed},
        )

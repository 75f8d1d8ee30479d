"""Generated tenants: what a hypernetwork A(p) learns from.

`generate(seed, n)` crosses the style attributes of `style.py` over sixteen trades. A fifth of the tenants is held
out, and what is held out is a *combination*: of the 27 triples (formality, length, register) the nine whose three
indices sum to a multiple of 3 are given to held-out tenants only. So every value, and every pair of values of these
three, is seen in training, while no held-out triple is. Held-out dialogues use question wordings of their own.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle, islice, product
from random import Random

from jaxrec.data.tenant import Page
from jaxrec.world import grammar
from jaxrec.world.conversations import with_conversations
from jaxrec.world.records import WorldTenant
from jaxrec.world.style import (
    CUSTOMER,
    DISCLAIMER,
    EMOJI,
    FORMALITY,
    GREETING,
    LENGTH,
    ORDER,
    REGISTER,
    SIGN_OFF,
    Style,
)
from jaxrec.world.voice import guide

TEMPER = {
    ("casual", "plain"): "relaxed",
    ("casual", "playful"): "cheeky",
    ("casual", "technical"): "chatty about details",
    ("neutral", "plain"): "calm",
    ("neutral", "playful"): "cheerful",
    ("neutral", "technical"): "precise",
    ("formal", "plain"): "courteous",
    ("formal", "playful"): "theatrical",
    ("formal", "technical"): "meticulous",
}


def is_held_out(style: Style) -> bool:
    """The rule of held-out combinations: a Latin square of the triples (formality, length, register)."""
    return _held((style.formality, style.length, style.register))


def generate(seed: int = 0, n: int = 240) -> list[WorldTenant]:
    """`n` tenants, the same for the same seed on every machine; every fifth is held out. Raises above 576."""
    names = _names()
    if not 1 <= n <= len(names):
        raise ValueError(f"generate: n={n} tenants, but the names reach for 1 to {len(names)}")
    styles = _styles(Random(f"{seed}/styles"), n)
    return [_tenant(Random(f"{seed}/{i}"), i, *names[i], styles[i]) for i in range(n)]


def paraphrases(tenants: Sequence[WorldTenant], seed: int = 0) -> list[tuple[str, str, str]]:
    """(topic, wording, another wording of the same question) of training wordings only, five topics a tenant."""
    rows = []
    for i, tenant in enumerate(tenants):
        rng = Random(f"{seed}/paraphrase/{i}")
        for topic in rng.sample(sorted(grammar.topics()), 5):
            one, other = rng.sample(grammar.topics()[topic]["ask"], 2)
            table = grammar.trades()[tenant.trade]
            item, service = rng.choice(table["goods"]), rng.choice(table["services"])
            words = grammar.slots(tenant.name, tenant.trade, None, item, service)
            words |= grammar.right_facts(tenant.facts, topic, item)
            rows.append((topic, one.format_map(words), other.format_map(words)))
    return rows


def _names() -> list[tuple[str, str]]:
    """(trade, name) for every tenant there can be; consecutive ones are of different trades."""
    by_trade = []
    for trade, table in grammar.trades().items():
        parts = product(("", "Little ", "Old ", "Upper "), table["ends"], table["names"])
        by_trade.append([(trade, f"{prefix}{name} {end}") for prefix, end, name in parts])
    return [pair for round_ in zip(*by_trade, strict=True) for pair in round_]


def _styles(rng: Random, n: int) -> list[Style]:
    """Balanced decks: every value of an attribute comes equally often, crossed with the others at random."""

    def deck(values: Sequence) -> list:
        cards = list(islice(cycle(values), n))
        rng.shuffle(cards)
        return cards

    triples = list(product(FORMALITY, LENGTH, REGISTER))
    held = [t for t in triples if _held(t)]
    seen = [t for t in triples if not _held(t)]
    rng.shuffle(held)
    rng.shuffle(seen)
    held_cards, seen_cards = cycle(held), cycle(seen)
    emojis = [("", 0)] * 4 + [(e, k) for e in EMOJI[1:] for k in (1, 2)]
    decks = [deck(v) for v in (GREETING, SIGN_OFF, emojis, DISCLAIMER, CUSTOMER, ORDER)]
    styles = []
    for i, (greeting, sign_off, emoji, *rest) in enumerate(zip(*decks, strict=True)):
        formality, length, register = next(held_cards if i % 5 == 4 else seen_cards)
        styles.append(Style(formality, length, greeting, sign_off, *emoji, *rest, register))
    return styles


def _held(triple: tuple[str, str, str]) -> bool:
    values = zip((FORMALITY, LENGTH, REGISTER), triple, strict=True)
    return sum(axis.index(value) for axis, value in values) % 3 == 0


def _tenant(rng: Random, index: int, trade: str, name: str, style: Style) -> WorldTenant:
    facts = grammar.draw_facts(rng, trade)
    key = f"{trade}_{index:03d}"
    tenant = WorldTenant(
        key=key,
        name=name,
        trade=trade,
        temper=TEMPER[style.formality, style.register],
        held_out=is_held_out(style),
        style=style,
        never=style.rivals,
        guide=guide(rng, name, style),
        pages=_pages(name, trade, facts),
        onboarding=(),
        preferences=(),
        heldout=(),
        facts=facts,
    )
    return with_conversations(rng, tenant)


def _pages(name: str, trade: str, facts: Mapping) -> tuple[Page, ...]:
    """One page a topic; of the topics that go by item, one paragraph an item."""
    pages, table = [], grammar.trades()[trade]
    for topic, row in grammar.topics().items():
        lines = []
        for item in table["goods"] if topic in ("price", "care") else table["goods"][:1]:
            words = grammar.slots(name, trade, None, item, table["services"][0])
            filled = words | grammar.right_facts(facts, topic, item)
            lines += [line.format_map(filled) for line in row["page"]]
        pages.append(Page(topic, f"{name}: {row['title']}", " ".join(dict.fromkeys(lines))))
    return tuple(pages)

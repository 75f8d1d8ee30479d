"""Generated tenants: what a hypernetwork A(p) learns from.

`generate(seed, n)` crosses the style attributes of `style.py` over sixteen trades. A fifth of the tenants is held
out, and what is held out is a *combination*: of the 27 triples (formality, length, register) the nine whose three
indices sum to a multiple of 3 are given to held-out tenants only. So every value, and every pair of values of these
three, is seen in training, while no held-out triple is. Held-out dialogues use question wordings of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice, product
from random import Random

from jaxrec.data.world import grammar
from jaxrec.data.world.records import Dialogue, Page, Preference, Tenant, Turn
from jaxrec.data.world.style import (
    CUSTOMER,
    DISCLAIMER,
    EMOJI,
    FORMALITY,
    GREETING,
    LENGTH,
    OPENER,
    ORDER,
    REGISTER,
    SIGN_OFF,
    Style,
    dress,
    lower_first,
)
from jaxrec.data.world.voice import guide

ONBOARDING, HELD_OUT, PREFERENCES = 60, 24, 30
PREFIXES = ("Hi, ", "Hello. ", "Quick question: ", "Good morning. ", "Excuse me, ")
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
    total = (
        FORMALITY.index(style.formality)
        + LENGTH.index(style.length)
        + REGISTER.index(style.register)
    )
    return total % 3 == 0


def generate(seed: int = 0, n: int = 240) -> list[Tenant]:
    """`n` tenants, the same for the same seed on every machine; every fifth is held out. Raises above 576."""
    names = _names()
    if not 1 <= n <= len(names):
        raise ValueError(f"generate: n={n} tenants, but the names reach for 1 to {len(names)}")
    styles = _styles(Random(f"{seed}/styles"), n)
    return [_tenant(Random(f"{seed}/{i}"), i, *names[i], styles[i]) for i in range(n)]


def answer(
    rng: Random,
    tenant: Tenant,
    topic: str,
    item: str,
    service: str,
    style: Style,
    said: Mapping[str, str],
) -> str:
    """One answer of a tenant on a topic, in a style (its own, or a rival's), stating these facts."""
    words = grammar.slots(tenant.name, tenant.trade, style, item, service)
    lines = grammar.sentences(rng, topic, words, said, style)
    group = OPENER.get((style.register, style.formality))
    return dress(lines, style, rng.choice(group) if group else "")


def paraphrases(tenants: Sequence[Tenant], seed: int = 0) -> list[tuple[str, str, str]]:
    """(topic, wording, another wording of the same question) of training wordings only, five topics a tenant."""
    rows = []
    for i, tenant in enumerate(tenants):
        rng = Random(f"{seed}/paraphrase/{i}")
        for topic in rng.sample(sorted(grammar.topics()), 5):
            one, other = rng.sample(grammar.topics()[topic]["ask"], 2)
            words = _asked(rng, tenant.name, tenant.trade, tenant.facts, topic)[0]
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
    emoji = [("", 0)] * 4 + [(e, k) for e in EMOJI[1:] for k in (1, 2)]
    rest = [deck(v) for v in (GREETING, SIGN_OFF, emoji, DISCLAIMER, CUSTOMER, ORDER)]
    styles = []
    for i, (greeting, sign_off, (mark, count), disclaimer, customer, order) in enumerate(
        zip(*rest, strict=True)
    ):
        formality, length, register = next(held_cards if i % 5 == 4 else seen_cards)
        styles.append(
            Style(
                formality,
                length,
                greeting,
                sign_off,
                mark,
                count,
                disclaimer,
                customer,
                order,
                register,
            )
        )
    return styles


def _held(triple: tuple[str, str, str]) -> bool:
    values = zip((FORMALITY, LENGTH, REGISTER), triple, strict=True)
    return sum(axis.index(value) for axis, value in values) % 3 == 0


def _tenant(rng: Random, index: int, trade: str, name: str, style: Style) -> Tenant:
    facts = grammar.draw_facts(rng, trade)
    key = f"{trade}_{index:03d}"
    tenant = Tenant(
        key=key,
        name=name,
        trade=trade,
        temper=TEMPER[style.formality, style.register],
        held_out=is_held_out(style),
        style=style,
        guide=guide(rng, name, style),
        pages=_pages(name, trade, facts),
        onboarding=(),
        preferences=(),
        heldout=(),
        facts=facts,
    )
    return _filled(rng, tenant)


def _filled(rng: Random, tenant: Tenant) -> Tenant:
    """The tenant with its conversations; a question stands once in onboarding and preferences together."""
    seen: set[str] = set()
    onboarding = [
        _dialogue(rng, tenant, f"on-{i:02d}", "ask", t, seen) for i, t in _rounds(rng, ONBOARDING)
    ]
    preferences = [
        _preference(rng, tenant, f"pref-{i:02d}", t, seen) for i, t in _rounds(rng, PREFERENCES)
    ]
    held = [
        _dialogue(rng, tenant, f"held-{i:02d}", "ask_heldout", t, seen)
        for i, t in _rounds(rng, HELD_OUT)
    ]
    return replace(
        tenant,
        onboarding=tuple(onboarding),
        preferences=tuple(preferences),
        heldout=tuple(held),
    )


def _rounds(rng: Random, count: int) -> list[tuple[int, str]]:
    """(index, topic): all topics in a new order, again and again."""
    order: list[str] = []
    while len(order) < count:
        order += rng.sample(sorted(grammar.topics()), len(grammar.topics()))
    return list(enumerate(order[:count]))


def _pages(name: str, trade: str, facts: Mapping) -> tuple[Page, ...]:
    """One page a topic; of the topics that go by item, one paragraph an item."""
    pages, table = [], grammar.trades()[trade]
    for topic, row in grammar.topics().items():
        lines = []
        for item in table["goods"] if topic in ("price", "care") else table["goods"][:1]:
            words = grammar.slots(name, trade, None, item, table["services"][0])
            filled = words | grammar.stated(facts, topic, item)
            lines += [line.format_map(filled) for line in row["page"]]
        pages.append(Page(topic, f"{name}: {row['title']}", " ".join(dict.fromkeys(lines))))
    return tuple(pages)


def _asked(rng: Random, name: str, trade: str, facts: Mapping, topic: str) -> tuple[dict, str, str]:
    """(slots of a customer's question, its item, its service). Customers know nothing of the tenant's own terms."""
    item, service = (
        rng.choice(grammar.trades()[trade]["goods"]),
        rng.choice(grammar.trades()[trade]["services"]),
    )
    words = grammar.slots(name, trade, None, item, service)
    return words | grammar.stated(facts, topic, item), item, service


def _question(
    rng: Random, tenant: Tenant, wordings: str, topic: str, seen: set[str]
) -> tuple[str, str, str]:
    """(question, item, service), a question that this tenant was not asked before."""
    while True:
        words, item, service = _asked(rng, tenant.name, tenant.trade, tenant.facts, topic)
        text = rng.choice(grammar.topics()[topic][wordings]).format_map(words)
        if rng.random() < 0.25 or text in seen:
            prefix = rng.choice(PREFIXES)
            text = prefix + (text if prefix.endswith(". ") else lower_first(text))
        if text not in seen:
            seen.add(text)
            return text, item, service


def _exchange(
    rng: Random, tenant: Tenant, wordings: str, topic: str, seen: set[str]
) -> tuple[str, str, tuple]:
    """(question, answer in the tenant's style, the facts that it states)."""
    question, item, service = _question(rng, tenant, wordings, topic, seen)
    said = grammar.stated(tenant.facts, topic, item)
    text = answer(rng, tenant, topic, item, service, tenant.style, said)
    return question, text, tuple(said.values())


def _dialogue(
    rng: Random, tenant: Tenant, suffix: str, wordings: str, topic: str, seen: set[str]
) -> Dialogue:
    """One exchange, or (one time in five) two, of which the first is on another topic."""
    topics = [topic]
    if rng.random() < 0.2:
        topics.insert(0, rng.choice([t for t in grammar.topics() if t != topic]))
    turns: list[Turn] = []
    for each in topics:
        question, text, facts = _exchange(rng, tenant, wordings, each, seen)
        turns += [Turn("customer", question), Turn("assistant", text)]
    return Dialogue(f"{tenant.key}-{suffix}", topic, tuple(topics), tuple(turns), facts)


def _preference(rng: Random, tenant: Tenant, suffix: str, topic: str, seen: set[str]) -> Preference:
    """Right style and facts against, two times in three, one to three attributes changed, or else a wrong fact."""
    question, item, service = _question(rng, tenant, "ask", topic, seen)
    said = grammar.stated(tenant.facts, topic, item)
    chosen = answer(rng, tenant, topic, item, service, tenant.style, said)
    if rng.random() < 1 / 3:
        wrong = grammar.redraw(rng, tenant.facts, topic, item)
        rejected, why = (
            answer(rng, tenant, topic, item, service, tenant.style, wrong),
            "states a wrong fact",
        )
    else:
        rival, changed = _rival(rng, tenant.style)
        rejected, why = (
            answer(rng, tenant, topic, item, service, rival, said),
            "wrong " + ", ".join(changed),
        )
    return Preference(f"{tenant.key}-{suffix}", question, chosen, rejected, why)


def _rival(rng: Random, style: Style) -> tuple[Style, list[str]]:
    """(a style that differs in one to three attributes that every answer shows, their names)."""
    axes = {
        "formality": FORMALITY,
        "length": LENGTH,
        "register": REGISTER,
        "greeting": GREETING,
        "sign_off": SIGN_OFF,
        "disclaimer": DISCLAIMER,
    }
    changed = rng.sample(sorted(axes), rng.choice((1, 2, 3)))
    new = {a: rng.choice([v for v in axes[a] if v != getattr(style, a)]) for a in changed}
    return replace(style, **new), changed

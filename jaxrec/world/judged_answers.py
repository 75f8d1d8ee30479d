"""Answers of the sample world that keep or break their tenant's policies, made by the world's own grammar.

    kept        the tenant's own style, the facts as its page states them
    grounding   one fact of another value than the page's
    style       one to three attributes of another style
    compliance  without the line that the tenant's rules demand (its disclaimer), or with another one

Where a tenant has no such line, compliance is unknown.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random

from jaxrec.data.turns import ANSWER, GUIDE, sentences
from jaxrec.world import grammar
from jaxrec.world.conversations import RIVAL, Talk
from jaxrec.world.records import WorldTenant
from jaxrec.world.style import DISCLAIMER, Style
from jaxrec.world.tenants import generate


@dataclass(frozen=True)
class JudgedAnswer:
    """An answer, the passage it should stand on, the facts it states, and what it breaks (1) or keeps (0), by label."""

    tenant: str
    question: str
    answer: str
    grounds: str
    facts: tuple[str, ...]
    violations: Mapping[str, float]


@dataclass(frozen=True)
class TenantFacts:
    """What is known of a tenant: (kind, text) pieces of its guide and onboarding; whether it is held out."""

    pieces: tuple[tuple[int, str], ...]
    held_out: bool


def judged_answers(
    seed: int = 0, tenants: int = 150, questions: int = 6, examples: int = 12
) -> tuple[list[JudgedAnswer], dict[str, TenantFacts]]:
    """`questions` new questions of each tenant, each answered in four or five ways; what is known of each tenant.

    seed: of the world. tenants: how many. examples: onboarding answers of each.
    """
    made, known = [], {}
    for i, tenant in enumerate(generate(seed, tenants)):
        rng = Random(f"{seed}/judged/{i}")
        # a fresh talk that knows what was asked, so that no question is one of the onboarding's
        talk = Talk(rng, tenant, {d.question for d in tenant.onboarding})
        for topic in rng.sample(sorted(grammar.topics()), questions):
            made += _answers(rng, talk, tenant, topic)
        guide = tuple((GUIDE, said) for said in sentences(tenant.guide))
        own = tuple((ANSWER, d.answer) for d in tenant.onboarding[:examples])
        known[tenant.key] = TenantFacts(guide + own, tenant.held_out)
    return made, known


def rival(rng: Random, style: Style, changed: tuple[str, ...]) -> Style:
    """The style with other values of these attributes (of `RIVAL`)."""
    other = lambda name: rng.choice([v for v in RIVAL[name] if v != getattr(style, name)])
    return replace(style, **{name: other(name) for name in changed})


def passage(tenant: WorldTenant, topic: str, item: str, service: str) -> str:
    """The lines of the tenant's page that speak of this topic and item: what a retriever should bring.

    service: what the tenant offers, where the topic has one.
    """
    words = grammar.slots(tenant.name, tenant.trade, None, item, service)
    filled = words | grammar.right_facts(tenant.facts, topic, item)
    return " ".join(line.format_map(filled) for line in grammar.topics()[topic]["page"])


def _answers(rng: Random, talk: Talk, tenant: WorldTenant, topic: str) -> list[JudgedAnswer]:
    question, item, service = talk.question("ask", topic)
    style, right = tenant.style, grammar.right_facts(tenant.facts, topic, item)
    ruled = bool(style.disclaimer)
    tone = [name for name in sorted(RIVAL) if name != "disclaimer"]
    foreign = rival(rng, style, tuple(rng.sample(tone, rng.choice((1, 2, 3)))))
    wrong = grammar.redraw(rng, tenant.facts, topic, item)
    ways = [(style, right, ()), (style, wrong, ("grounding",)), (foreign, right, ("style",))]
    ways.append((foreign, wrong, ("grounding", "style")) if rng.random() < 0.3 else ways[0])
    if ruled:
        without = replace(
            style, disclaimer=rng.choice([d for d in DISCLAIMER if d != style.disclaimer])
        )
        ways.append((without, right, ("compliance",)))
    labels = ("grounding", "style", *(("compliance",) if ruled else ()))
    grounds = passage(tenant, topic, item, service)
    rows = []
    for manner, said, broken in ways:
        text = talk.answer(topic, item, service, manner, said)
        violations = {label: float(label in broken) for label in labels}
        rows.append(
            JudgedAnswer(tenant.key, question, text, grounds, tuple(said.values()), violations)
        )
    return rows

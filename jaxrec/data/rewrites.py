"""Drafts of the sample world and what the tenant would have written: what a rewriter is trained and tested on.

question   ... <user> the question <assistant> the draft <user> REWRITE        what the rewriter reads
answer     the same facts in the tenant's own style
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from jaxrec.data.chat import ChatFormat
from jaxrec.data.tenant import Tenant
from jaxrec.data.text import pad
from jaxrec.data.turns import TurnRows, answer_of, question_of
from jaxrec.world import grammar
from jaxrec.world.conversations import RIVAL, Talk
from jaxrec.world.judged_answers import rival
from jaxrec.world.records import WorldTenant
from jaxrec.world.style import Style

REWRITE = "Please say it in our own voice."


@dataclass(frozen=True)
class Rewrite:
    """A draft for one tenant (by number), what it should become, and where they are planted the facts and the style."""

    tenant: int
    question: str
    draft: str
    own: str
    facts: tuple[str, ...] = ()
    style: Style | None = None


def rewrites(tenants: Sequence[Tenant], each: int, seed: int = 0) -> list[Rewrite]:
    """`each` drafts of every tenant.

    Where facts are planted, drafts have two to five attributes of another style, to questions that are not the
    onboarding's. Other tenants' drafts are the rejected answers of their first `each` preferences.
    """
    made = []
    for u, tenant in enumerate(tenants):
        if not isinstance(tenant, WorldTenant) or not tenant.facts:
            pairs = tenant.preferences[:each]
            made += [Rewrite(u, p.question, p.rejected, p.chosen) for p in pairs]
            continue
        rng = Random(f"{seed}/rewrite/{tenant.key}")
        talk = Talk(rng, tenant, {d.question for d in tenant.onboarding})
        for _ in range(each):
            topic = rng.choice(sorted(grammar.topics()))
            question, item, service = talk.question("ask", topic)
            said = grammar.right_facts(tenant.facts, topic, item)
            changed = tuple(rng.sample(sorted(RIVAL), rng.choice((2, 3, 4, 5))))
            foreign = talk.answer(topic, item, service, rival(rng, tenant.style, changed), said)
            own = talk.answer(topic, item, service, tenant.style, said)
            made.append(Rewrite(u, question, foreign, own, tuple(said.values()), tenant.style))
    return made


def rewrite_request(question: str, draft: str) -> list[tuple[str, str]]:
    """The turns that ask for a rewrite of a draft."""
    return [("user", question), ("assistant", draft), ("user", REWRITE)]


def rewrite_rows(
    chat: ChatFormat, made: Sequence[Rewrite], question_length: int, answer_length: int
) -> TurnRows:
    """Rewrites as rows of turns: no answer of the onboarding is among them, so all of it may be evidence.

    chat: how the model writes. made: the rewrites. question_length, answer_length: tokens at most; a longer question
    loses its beginning, a longer answer its end.
    """
    read = [question_of(chat, rewrite_request(r.question, r.draft), question_length) for r in made]
    said = [answer_of(chat, r.own, answer_length) for r in made]
    nobody = np.full(len(made), -1, np.int32)
    tenant_N = np.array([r.tenant for r in made], np.int32)
    return TurnRows(
        pad(read, question_length, chat.pad_id),
        pad(said, answer_length, chat.pad_id),
        tenant_N,
        nobody,
    )

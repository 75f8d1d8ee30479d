"""Floor 3: the page that has the answer, put in front of a conversation: what a model reads before the question.

    system      You write for NAME. Answer from this page: ...
    customer    the question

Which page it is, a dialogue may say itself ("right"), or it is found by the question's words ("retrieved", BM25) among
the tenant's pages, each with what was asked and answered from it at onboarding: customers seldom use a page's own
words. Of a page longer than there is room for, the sentences that share least with the question go.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from jaxrec.data.chat import ChatFormat
from jaxrec.data.tenant import Dialogue, Page, Tenant, Turn
from jaxrec.data.turns import sentences
from jaxrec.retrieval.lexical import LexicalIndex

Which = Literal["none", "name", "right", "retrieved"]


@dataclasses.dataclass(frozen=True)
class PagesConfig:
    """Whether a page of its tenant stands before a conversation, and which."""

    which: Which = "none"  # name: whose assistant it is, and no page
    length: int = 64  # tokens of pages at most
    count: int = 1  # pages that are retrieved
    share: float = 1.0  # of the conversations that get one; the others get the name
    beside: float = (
        0.0  # share of those with the right page that get another one too, in either order
    )


class PageFinder:
    """The pages of one tenant by the words of a question. A title counts twice."""

    def __init__(self, tenant: Tenant):
        self.tenant, self.pages = tenant, tenant.pages
        said = {page.id: [page.title, page.title, page.text] for page in tenant.pages}
        for dialogue in tenant.onboarding:
            for page in said.keys() & set(dialogue.pages):
                said[page] += [dialogue.question, dialogue.answer]
        texts = [" ".join(parts) for parts in said.values()]
        self._index = LexicalIndex.build(texts) if texts else None

    def find(self, question: str, count: int = 1) -> list[Page]:
        """The pages that share most words with a question, best first; none where they share nothing."""
        if self._index is None:
            return []
        found = self._index.search(question, count).items_BJ[0]
        return [self.pages[i] for i in found if i >= 0]


def with_pages(
    chat: ChatFormat, tenants: Sequence[Tenant], cfg: PagesConfig, length: int, seed: int = 0
) -> list[Tenant]:
    """Tenants whose dialogues begin with a system turn that holds the tenant's name and a page.

    Args:
      chat: whose tokens are counted.
      tenants: who answers.
      cfg: which page.
      length: tokens that a whole question may have; of a longer conversation the earliest exchanges go, never the page.
      seed: of which conversations get a page, where not all do.
    """
    if cfg.which == "none":
        return list(tenants)
    return [_with_pages(chat, tenant, cfg, length, seed) for tenant in tenants]


@dataclasses.dataclass(frozen=True)
class Grounded:
    """A conversation with its system turn in front, and the ids of the pages that stand in it."""

    turns: tuple[Turn, ...]
    pages: tuple[str, ...] = ()


def ground(
    chat: ChatFormat,
    tenant: Tenant,
    turns: Sequence[Turn],
    pages: Sequence[Page],
    cfg: PagesConfig,
    length: int,
) -> Grounded:
    """A conversation that ends with a question, as a model reads it: whose it is, what to answer from, the turns.

    Args:
      chat: whose tokens are counted.
      tenant: who answers.
      turns: the last of them is the question.
      pages: to be answered from; of longer ones than `cfg.length` the sentences that matter least go.
      cfg: how much room pages have.
      length: tokens of it all; the earliest exchanges of a longer conversation go, never the page.
    """
    text = " ".join(page.text for page in pages)
    said = [shortened(chat, text, asked_in(turns), cfg.length)] if text else []
    system = Turn("system", system_text(tenant, said))
    return Grounded(fitting(chat, system, turns, length), tuple(page.id for page in pages))


def fitting(chat: ChatFormat, system: Turn, turns: Sequence[Turn], length: int) -> tuple[Turn, ...]:
    """The system turn and as many of the last turns as fit, a question first; its own question always does.

    chat: whose tokens are counted. system: stands in front. turns: the last of them is the question. length: tokens.
    """
    size = lambda turns: len(chat.question([(t.role, t.text) for t in (system, *turns)]))
    while len(turns) > 1 and size(turns) > length:
        turns = turns[2:] if len(turns) > 2 else turns[1:]
    return (system, *turns)


def asked_in(turns: Sequence[Turn]) -> str:
    """The words that a page is looked for by: of the whole conversation, the last turn's twice. "And on Sunday?" has
    none of its own."""
    return " ".join([*(turn.text for turn in turns), turns[-1].text])


def system_text(tenant: Tenant, pages: Sequence[str] = ()) -> str:
    """What a model reads before a conversation: whom it writes for, and what it may answer from."""
    head = f"You write for {tenant.name}."
    return f"{head} Answer from this page: {' '.join(pages)}" if pages else head


def shortened(chat: ChatFormat, text: str, question: str, length: int) -> str:
    """A text of at most `length` tokens: whole sentences in their order, those kept that share most with the question.

    chat: whose tokens are counted. text: of one or several pages.
    """
    parts = sentences(text)
    sizes = [len(chat.encode(f" {part}")) for part in parts]
    if sum(sizes) <= length:
        return text
    ranked = LexicalIndex.build(parts).search(question, len(parts)).items_BJ[0]
    # Sentences that share no word come last, in their order: a page's first ones say what it is about.
    order = [*(i for i in ranked if i >= 0), *(i for i in range(len(parts)) if i not in ranked)]
    kept, room = set(), length
    for i in order:
        if sizes[i] <= room:
            kept.add(i)
            room -= sizes[i]
    return " ".join(parts[i] for i in sorted(kept))


# ------------------------------------------------------------------------------------------ inside


def _with_pages(
    chat: ChatFormat, tenant: Tenant, cfg: PagesConfig, length: int, seed: int
) -> Tenant:
    finder = PageFinder(tenant) if cfg.which == "retrieved" else None
    # A draw of each tenant's own, so that who else is there changes nothing.
    rng = np.random.default_rng([seed, *tenant.key.encode()])

    def grounded(dialogue: Dialogue) -> Dialogue:
        with_page, pages = rng.random() < cfg.share, []
        before, asked = dialogue.turns[:-1], asked_in(dialogue.turns[:-1])
        if with_page and finder is not None:
            pages = finder.find(asked, cfg.count)
        elif with_page and cfg.which == "right":
            pages = [tenant.page(one) for one in dialogue.pages]
        turns = ground(chat, tenant, before, pages, cfg, length).turns
        others = [page for page in tenant.pages if page not in pages]
        if pages and others and cfg.which == "right" and rng.random() < cfg.beside:
            said = shortened(chat, " ".join(page.text for page in pages), asked, cfg.length)
            # What is left of the room: of the right page nothing may go that the answer states.
            room = cfg.length - len(chat.encode(f" {said}"))
            other = others[rng.integers(len(others))].text
            both = [said, shortened(chat, other, asked, max(room, 0))]
            both = [one for one in (both if rng.random() < 0.5 else both[::-1]) if one]
            turns = fitting(chat, Turn("system", system_text(tenant, both)), before, length)
        return dataclasses.replace(dialogue, turns=(*turns, dialogue.turns[-1]))

    return dataclasses.replace(
        tenant,
        onboarding=tuple(map(grounded, tenant.onboarding)),
        heldout=tuple(map(grounded, tenant.heldout)),
    )

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


class PageFinder:
    """The pages of one tenant by the words of a question. A title counts twice."""

    def __init__(self, tenant: Tenant):
        self.pages = tenant.pages
        said = {page.id: [page.title, page.title, page.text] for page in tenant.pages}
        for dialogue in tenant.onboarding:
            for page in said.keys() & set(dialogue.pages):
                said[page] += [dialogue.question, dialogue.answer]
        self._index = LexicalIndex.build(" ".join(parts) for parts in said.values())

    def find(self, question: str, count: int = 1) -> list[Page]:
        """The pages that share most words with a question, best first; none where they share nothing."""
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
    finder = PageFinder(tenant) if cfg.which == "retrieved" and tenant.pages else None
    # A draw of each tenant's own, so that who else is there changes nothing.
    rng = np.random.default_rng([seed, *tenant.key.encode()])

    def grounded(dialogue: Dialogue) -> Dialogue:
        with_page, pages = rng.random() < cfg.share, []
        if with_page and finder is not None:
            pages = finder.find(dialogue.question, cfg.count)
        elif with_page and cfg.which == "right":
            pages = [tenant.page(one) for one in dialogue.pages]
        text = " ".join(page.text for page in pages)
        said = [shortened(chat, text, dialogue.question, cfg.length)] if text else []
        system = Turn("system", system_text(tenant, said))
        turns = dialogue.turns
        fits = lambda turns: (
            len(chat.question([(t.role, t.text) for t in (system, *turns[:-1])])) <= length
        )
        while len(turns) > 2 and not fits(turns):
            turns = turns[2:]
        return dataclasses.replace(dialogue, turns=(system, *turns))

    return dataclasses.replace(
        tenant,
        onboarding=tuple(map(grounded, tenant.onboarding)),
        heldout=tuple(map(grounded, tenant.heldout)),
    )

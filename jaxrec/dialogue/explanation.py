"""Floor 3: why these items, for this person: a reason for each, written by a model and held against the catalogue.

    reasons = Explainer(complete, catalogue).explain(subjects, Reader("interested in tea, mugs", ("tea", "mugs")))

The model is a callable: prompts in, texts out, all items at once. What it writes is not believed: a text that is empty,
that names another item of the catalogue, or claims an attribute that other items have and this one has not, is replaced
by a template, and `Reason.by` and `.why` say so.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

from jaxrec.dialogue.prompts import PromptError
from jaxrec.dialogue.prompts.items import (
    Template,
    metadata,
    query_prompt,
    rating_prompt,
    template_reason,
)
from jaxrec.text_metrics import Catalogue, Claims
from jaxrec.words import words

Complete = Callable[[Sequence[str]], Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Subject:
    """An item to be explained: what it is called and what is true of it. rating: the mean of those who rated it."""

    title: str
    category: str = ""
    features: tuple[str, ...] = ()
    rating: float | None = None


@dataclasses.dataclass(frozen=True)
class Reader:
    """Who reads the reason: their persona in words and the words alone, and what they asked for. All may be empty."""

    persona: str = ""
    keywords: tuple[str, ...] = ()
    query: str = ""


@dataclasses.dataclass(frozen=True)
class Reason:
    """One item's reason. by: who wrote it; why: what was wrong with the model's text, where a template replaced it.

    written: the model's own text, kept either way. said: what the text claims, by the catalogue.
    """

    text: str
    prompt: str
    by: Literal["model", "template"]
    why: str
    written: str
    said: Claims


@dataclasses.dataclass(frozen=True)
class Explainer:
    """Asks the model and checks its answers. template: the prompt for somebody whose persona is known."""

    complete: Complete
    catalogue: Catalogue
    template: Template = "rating/2"

    def explain(self, subjects: Sequence[Subject], reader: Reader) -> list[Reason]:
        """A reason for each subject, from one call of the model.

        Raises PromptError for a subject without a title, and where the model gives not one text for each prompt.
        """
        prompts = [self.prompt(subject, reader) for subject in subjects]
        if not prompts:
            return []
        texts = list(self.complete(prompts))
        if len(texts) != len(prompts):
            raise PromptError(f"{len(prompts)} prompts, but the model gave {len(texts)} texts")
        return [
            self._checked(subject, reader, prompt, text.strip())
            for subject, prompt, text in zip(subjects, prompts, texts, strict=True)
        ]

    def prompt(self, subject: Subject, reader: Reader) -> str:
        """Phase 6's for a known persona, otherwise phase 4's for the query, or for what everybody likes."""
        if reader.persona and self.template != "query/1":
            return rating_prompt(
                reader.persona,
                subject.title,
                subject.category,
                subject.rating,
                subject.features,
                self.template,
            )
        told = metadata(subject.category, subject.features, subject.rating)
        asked = reader.query or reader.persona or "something that many people like"
        return query_prompt(asked, subject.title, told)

    def _checked(self, subject: Subject, reader: Reader, prompt: str, written: str) -> Reason:
        said = self.check(written, subject, reader)
        why = ""
        if not words(written):
            why = "the model wrote nothing"
        elif said.others:
            why = f"the model named another item: {said.others[0]}"
        elif said.false:
            why = f"the model claimed what is not true of it: {said.false[0]}"
        if not why:
            return Reason(written, prompt, "model", "", written, said)
        interests = reader.keywords or ((reader.query,) if reader.query else ())
        text = template_reason(subject.title, interests, subject.category, subject.features)
        return Reason(text, prompt, "template", why, written, self.check(text, subject, reader))

    def check(self, text: str, subject: Subject, reader: Reader) -> Claims:
        """What a text claims of its subject."""
        attributes = [part for part in (subject.category, *subject.features) if part]
        # what the reader asked for is no claim about the item either
        persona = (*reader.keywords, *words(reader.query))
        return self.catalogue.check(text, subject.title, attributes, persona)

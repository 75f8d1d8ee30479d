"""Floor 4: a pipeline with a language model that says why: ten items with reasons that were held against the catalogue.

    flow = ExplainedFlow(pipeline, data.items, mean_ratings(histories), writer)
    answer = pipeline.answer("U1", "coffee for a friend")
    reasons = flow.explain(answer)

The model is any callable from prompts to texts (`models.language.writing.PromptWriter` is one). What it claims
against the catalogue is replaced by a template, and the reason says so (`dialogue.explanation`).
"""

import numpy as np
from jaxtyping import Float

from jaxrec.data.interaction_sets import Items
from jaxrec.dialogue.explanation import Complete, Explainer, Reader, Reason, Subject
from jaxrec.people.words import words
from jaxrec.recommenders.flow.pipeline import Answer, FlowError, Pipeline
from jaxrec.rewards.instruction_pairs import item_facts
from jaxrec.text_metrics import Catalogue


class ExplainedFlow:
    """Explains what a pipeline answers.

    items: what is known of each item, titles above all. rating_I: their mean ratings, NaN where there is none. Raises
    FlowError where items have no titles.

    pipeline: what recommends. complete: the language model, prompts to texts.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        items: Items,
        rating_I: Float[np.ndarray, " I"],
        complete: Complete,
    ):
        if items.title is None:
            raise FlowError("there are no titles: a model has nothing to explain items by")
        self.pipeline, self.rating_I = pipeline, rating_I
        self.facts = [item_facts(items, item) for item in range(len(items.title))]
        catalogue = Catalogue((f.title for f in self.facts), (f.attributes for f in self.facts))
        self.explainer = Explainer(complete, catalogue)

    def explain(self, answer: Answer) -> list[Reason]:
        """A reason for each item of an answer, from one call of the model."""
        return self.explainer.explain(
            self.subjects(answer), reader_of(answer.persona, answer.query)
        )

    def subjects(self, answer: Answer) -> list[Subject]:
        """What may be told of each item of an answer."""
        return [self.subject(int(item)) for item in answer.items]

    def subject(self, item: int) -> Subject:
        """What may be told of an item."""
        fact, rating = self.facts[item], self.rating_I[item]
        known = None if np.isnan(rating) else round(float(rating), 1)
        return Subject(fact.title, fact.category, fact.features, known)


def reader_of(persona: str | None, query: str) -> Reader:
    """Who reads the reasons, as the flow knows them."""
    persona = persona or ""
    return Reader(persona, tuple(words(persona)[1:]), query.strip())

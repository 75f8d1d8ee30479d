"""Floor 4: a shop's flow behind four verbs: fit, save, load, recommend. What it is fitted with follows from the shop.

Without titles there is no search by text; without a sentence encoder, or in a language that it does not know, titles
are sought by their words; few people get item neighbours in place of a sequence model, and where nobody took two
things popularity is left. Each such choice is a line of `notes`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.data.histories import Histories
from jaxrec.data.interaction_sets import InteractionSet
from jaxrec.dialogue.explanation import Complete, Reason
from jaxrec.recommenders.flow import folder as folders
from jaxrec.recommenders.flow.fitting import FlowConfig
from jaxrec.recommenders.flow.pipeline import (
    Answer,
    FlowError,
    FlowParts,
    FlowSettings,
    Pipeline,
)
from jaxrec.recommenders.flow.reasons import Reasons, Recommendation, Recommendations, Why
from jaxrec.recommenders.flow.shop import Shop


class Flow:
    """What recommends in one shop. Made by `fit` or `load`.

    facts: what the fit has to tell (counts, how often a held-out item was among the ten). notes: what was chosen for
    want of something better, a line each.

    shop: the names of people and items, and the events. parts: what searches, ranks and describes. settings: how
    many candidates, which weights.
    """

    def __init__(
        self,
        shop: Shop,
        parts: FlowParts,
        settings: FlowSettings,
        facts: dict[str, Any] | None = None,
        notes: Sequence[str] = (),
    ):
        self.shop, self.parts, self.settings = shop, parts, settings
        self.facts, self.notes = facts or {}, tuple(notes)

    @classmethod
    def fit(
        cls,
        data: InteractionSet,
        config: FlowConfig | None = None,
        *,
        work: str | Path | None = None,
        progress: bool = True,
    ) -> "Flow":
        """Fits what the data allow.

        data: events, and what is known of the items. config: None: the defaults. work: a folder from which a fit that
        was stopped goes on (else a temporary one). progress: bars on stderr. Raises NothingToLearn without
        events, ModelError for an encoder that can't be loaded.
        """
        from jaxrec.recommenders.flow.making import make

        return cls(*make(data, config or FlowConfig(), work, progress))

    def save(self, folder: str | Path) -> None:
        """Writes all that `load` needs, whole or not at all; an older flow there is replaced."""
        folders.save(Path(folder), self.shop, self.parts, self.settings, self.facts, self.notes)

    @classmethod
    def load(cls, folder: str | Path) -> "Flow":
        """The flow that `save` wrote. Raises FlowError where there is none, or one of another version."""
        return cls(*folders.load(Path(folder)))

    def recommend(
        self,
        user: str = "",
        query: str = "",
        k: int = 10,
        *,
        why: bool = True,
        again: bool = False,
        liked: Sequence[str] = (),
    ) -> Recommendations:
        """The k best items for a person, for what they ask, or for both; without either what is popular.

        user: as the events name them; somebody not known is served by the query, `liked` and popularity, and `notes` of
        what is returned say so. query: in words. why: with reasons. again: items that they have taken already may come.
        liked: ids of items that somebody not known likes. Raises FlowError for k below 1 and an id that is not there.
        """
        if k < 1:
            raise FlowError(f"k is {k}: at least one item is recommended")
        if lost := [name for name in liked if name not in self.shop.number]:
            raise FlowError(f"there is no item {lost[0]!r} in {self.shop.name}")
        wide = dataclasses.replace(
            self.settings,
            k=k,
            diverse=max(self.settings.diverse, 2 * k),
            candidates=max(self.settings.candidates, 4 * k),
            mask_seen=not again,
        )
        pipeline = Pipeline(self.parts, wide)
        answer = pipeline.answer(user, query, [self.shop.number[name] for name in liked])
        reasons = self._reasons(answer, pipeline, liked) if why else [Why((), ())] * k
        items = answer.items.tolist()
        found = [
            Recommendation(
                self.shop.ids[item], self.shop.titles[item], score, w.reasons, w.evidence
            )
            for item, score, w in zip(items, answer.scores.tolist(), reasons, strict=False)
        ]
        return Recommendations(found, user, query, answer.persona or "", self._said(answer, liked))

    def explain(self, found: Recommendations, complete: Complete) -> list[Reason]:
        """A sentence for each item of a list, written by a language model and held against the catalogue.

        complete: prompts to texts (`models.language.writing.PromptWriter` is one). A text that is empty, names another
        item or claims what is not true of its own is replaced by a template, and `Reason.by` and `.why` say so. Raises
        FlowError where items have no titles.
        """
        from jaxrec.recommenders.flow.explained import ExplainedFlow, reader_of

        pipeline = Pipeline(self.parts, self.settings)
        named = dataclasses.replace(self.shop.items, title=self.shop.titles)
        items = named if self.shop.items.title else self.shop.items
        flow = ExplainedFlow(pipeline, items, self.shop.rating_I, complete)
        subjects = [flow.subject(self.shop.number[one.item]) for one in found]
        return flow.explainer.explain(subjects, reader_of(found.persona, found.query))

    def _reasons(self, answer: Answer, pipeline: Pipeline, liked: Sequence[str]) -> list[Why]:
        history = self._history(answer.user, liked)
        asked = pipeline.read(answer.query)
        reasons = Reasons(self.shop, self.parts, history, asked.text or asked.words)
        return [reasons.why(item) for item in answer.items.tolist()]

    def _history(self, user: str, liked: Sequence[str]) -> Histories:
        row = self.shop.people.get(user)
        if row is not None:
            return self.shop.histories.take(np.array([row]))
        items = np.array([self.shop.number[name] for name in liked], np.int64)
        empty = self.shop.histories.take(np.array([], np.int64))
        return dataclasses.replace(
            empty,
            item_T=items,
            start_B=np.array([0, len(items)]),
            user_B=np.array([-1]),
            rating_T=None,
            time_T=None,
        )

    def _said(self, answer: Answer, liked: Sequence[str]) -> tuple[str, ...]:
        """The answer's notes in the words of somebody who runs a shop."""
        notes, user = list(answer.notes), answer.user
        if user and user not in self.shop.people:
            by = [f"{len(liked)} items that they like"] if liked else []
            by += ["the query"] if not answer.path.endswith("no query") else []
            by += ["popularity"] if not liked else []
            close = self.shop.nearest(user)
            hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
            line = f"{user!r} is not known: recommended by {' and '.join(by)}{hint}"
            notes = [line, *(n for n in notes if not n.startswith(repr(user)))]
        return tuple(sorted(notes, key=lambda note: note.startswith("only ")))

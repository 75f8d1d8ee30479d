"""Floor 4: GenRec's pipeline without its language model: a person and a query in, ten titles out.

    user -> vector -> persona;  query -> vector -> search -> diversify -> re-rank by what is known of the person

The parts are given: an encoder, a search, rankers, personas. Nothing here is trained, and nothing knows a data set;
`flow.Flow` fits the parts and keeps them. Who is not known is said to be so (`Answer.path`, `Answer.notes`), and served
by what is left: the items that they name, what is popular, the query alone. A query that the encoder can't read, or
any query where there is no encoder, is sought by its words.
"""

import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from jaxrec.config import RunError
from jaxrec.data.histories import Histories, from_lists
from jaxrec.people.personas import Personas
from jaxrec.people.preferences import preference_vectors
from jaxrec.recommenders.flow.query import Query, read_query
from jaxrec.retrieval.diversity import Method, diversify
from jaxrec.retrieval.rerank import weighted_z
from jaxrec.types import Shortlist

STAGES = ("user", "persona", "encode", "search", "diversify", "rank")


class FlowError(RunError, ValueError):
    """A request or a setting that can't be served, and what to change."""


@dataclasses.dataclass(frozen=True)
class FlowWeights:
    """What each standardised score counts. `popular` counts for people of whom nothing is known."""

    text: float = 1.0  # nearness to the query, or without one to what the person likes
    deepmf: float = 0.5
    sequence: float = 0.5
    popular: float = 0.25
    neighbours: float = 0.5  # what others took along with what the person took


@dataclasses.dataclass(frozen=True)
class FlowSettings:
    """How many items pass each stage, and what the last one weighs. GenRec's own: 30 found, 10 kept by distance."""

    candidates: int = 100  # found by the search
    diverse: int = 50  # left by the diversity stage
    k: int = 10
    method: Method = "mmr"
    duplicate: float = 0.95
    lam: float = 0.9  # of mmr and dpp
    mask_seen: bool = True
    near: float = 0.0  # share of the best match to a query below which an item is no answer to it, if k others are
    weights: FlowWeights = FlowWeights()
    unasked: FlowWeights | None = None  # what counts where there is no query; None: the same
    longest_query: int = 2_000  # characters
    scripts: tuple[str, ...] = ("LATIN",)  # those that the encoder knows; none: all


@runtime_checkable
class Ranker(Protocol):
    """How well each item would come next in each row [B, I]; any `Recommender` is one."""

    def score(self, histories: Histories) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class FlowParts:
    """What the flow is made of. Items are the numbers 0.. of the titles, people the rows of `histories`.

    encode: texts to vectors [B, D]; None: there is no encoder. search: vectors and k to a Shortlist. vectors: items
    [..] to vectors [.., D]. rankers: by the names of FlowWeights, "deepmf", "sequence" and "neighbours"; any of them,
    or none. person_vectors: histories to what personas are made of. popular_I: how popular each item is, in whatever
    unit. match: a query and k to the items that share words with it.
    """

    titles: Sequence[str]
    encode: Callable[[list[str]], np.ndarray] | None
    search: Callable[[np.ndarray, int], Shortlist]
    vectors: Callable[[np.ndarray], np.ndarray]
    people: Mapping[str, int]
    histories: Histories
    popular_I: np.ndarray
    rankers: Mapping[str, Ranker] = dataclasses.field(default_factory=dict)
    personas: Personas | None = None
    person_vectors: Callable[[Histories], np.ndarray] | None = None
    match: Callable[[str, int], Shortlist] | None = None


@dataclasses.dataclass(frozen=True)
class Candidates:
    """What was found for a request, before it is weighed: items [J], and each ranker's score of them [J]."""

    items: np.ndarray
    scores: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Answer:
    """Up to k items, best first, each score's standardised part of the sum, and how it came to this.

    path: one of "known person, query", "known person, no query", "new person, ...". latency_ms: by stage.
    """

    user: str
    query: str
    items: np.ndarray
    titles: tuple[str, ...]
    scores: np.ndarray
    parts: Mapping[str, np.ndarray]
    persona: str | None
    path: str
    notes: tuple[str, ...]
    latency_ms: Mapping[str, float]


class Pipeline:
    """Answers requests, one at a time. Safe to share between threads where its parts are."""

    def __init__(self, parts: FlowParts, settings: FlowSettings = FlowSettings()):
        unknown = set(parts.rankers) - {"deepmf", "sequence", "neighbours"}
        if unknown:
            raise FlowError(f"no weight is named {sorted(unknown)[0]!r}: see FlowWeights")
        if not 1 <= settings.k <= settings.diverse <= settings.candidates:
            raise FlowError(
                "k, diverse and candidates grow from the last stage to the first: "
                f"{settings.k}, {settings.diverse}, {settings.candidates} do not"
            )
        self.parts, self.settings = parts, settings

    def answer(self, user: str, query: str = "", given: Sequence[int] = ()) -> Answer:
        """The k best items for a person who asks for something, or for nothing in particular.

        given: items that somebody who is not known says they like. Raises FlowError for an item that does not exist.
        """
        clock = _Clock()
        with clock("user"):
            history, who, notes = self._history(user, given)
            person_BE = self._person_vector(history)
        with clock("persona"):
            persona = self._persona(person_BE)
        asked = self.read(query)
        with clock("rank"):
            score_I = self.rank_scores(history)
        found = self.gather(history, asked, score_I, clock)
        silent = not (asked.text or asked.words)
        weights = (silent and self.settings.unasked) or self.settings.weights
        with clock("rank"):
            total, parts = weigh(found.scores, weights)
            best = np.argsort(-total, kind="stable")[: self.settings.k]
        if len(best) < self.settings.k:
            what = "different items are left" if len(best) != 1 else "item is left"
            if asked.words:
                what = (
                    "items have a word of the query"
                    if len(best) != 1
                    else "has a word of the query"
                )
            notes = (*notes, f"only {len(best)} {what}")
        items = found.items[best]
        return Answer(
            user,
            query,
            items,
            tuple(self.parts.titles[item] for item in items),
            total[best],
            {name: part[best] for name, part in parts.items()},
            persona,
            f"{who}, {'no query' if silent else 'query'}",
            (*notes, *asked.notes),
            dict(clock.ms),
        )

    def rank_scores(self, history: Histories) -> dict[str, Float[np.ndarray, " I"]]:
        """Every ranker's score of every item for one row; how popular the items are, where no ranker can tell."""
        if not len(history.item_T) or not self.parts.rankers:
            return {"popular": np.asarray(self.parts.popular_I, np.float32)}
        return {
            name: np.asarray(ranker.score(history))[0]
            for name, ranker in self.parts.rankers.items()
        }

    def gather(
        self,
        history: Histories,
        asked: Query,
        score_I: Mapping[str, np.ndarray],
        clock: "_Clock | None" = None,
    ) -> Candidates:
        """The candidates of one request after diversification, with all scores of them.

        history: one row. asked: the query, as `read` gives it. score_I: `rank_scores` of the history. clock: adds up
        the milliseconds of each stage, None where nobody wants them.
        """
        clock, settings = clock or _Clock(), self.settings
        silent = not (asked.text or asked.words)
        with clock("encode"):
            query_1D = None if asked.words else self._query_vector(history, asked)
        with clock("search"):
            lists = []
            seen = history.item_T if settings.mask_seen else history.item_T[:0]
            wide = settings.candidates + len(seen)
            if query_1D is not None:
                lists.append(self.parts.search(query_1D, wide).items_BJ[0])
            elif asked.words:
                matched = self.parts.match(asked.words, wide)
                lists.append(matched.items_BJ[0])
            if silent:  # nothing was asked: what the rankers like are candidates too
                lists += [np.argsort(-score, kind="stable")[:wide] for score in score_I.values()]
            items_J = _merged(lists, seen)[: settings.candidates]
        with clock("diversify"):
            vectors_JD = self.parts.vectors(items_J)
            scores = {name: score[items_J] for name, score in score_I.items()}
            if query_1D is not None:
                near_J = vectors_JD @ query_1D[0]
                scores = {"text": near_J, **scores}
            elif asked.words:
                near_J = _matched(matched, items_J)
                scores = {"text": near_J, **scores}
            else:  # nobody known, nothing asked: what is popular is relevant
                near_J = scores["popular"] / max(float(self.parts.popular_I.max()), 1e-9)
            kept_J = self._diverse(items_J, near_J.astype(np.float32), vectors_JD)
            if settings.near and not silent:
                kept_J = _answering(kept_J, near_J, settings)
        scores = {name: score_J[kept_J] for name, score_J in scores.items()}
        return Candidates(items_J[kept_J], scores)

    def read(self, query: str) -> Query:
        """What of a query the encoder reads, or else the words by which it is sought, and what was left aside."""
        settings, parts = self.settings, self.parts
        if parts.encode is None and parts.match is None:
            note = "there are no titles to search in: the query is left aside"
            return Query("", (note,) if query.strip() else ())
        if parts.encode is not None:
            asked = read_query(query, settings.scripts, settings.longest_query)
            if asked.text or parts.match is None:
                return asked
        asked = read_query(query, (), settings.longest_query)
        if not asked.text:
            return asked
        if parts.match(asked.text, 1).items_BJ[0, 0] < 0:
            unread = " and the encoder does not read its script" if parts.encode else ""
            note = f"no item has a word of the query{unread}: it is left aside"
            return Query("", (*asked.notes, note))
        note = (
            ("sought by its words: the encoder does not read its script",) if parts.encode else ()
        )
        return Query("", (*asked.notes, *note), words=asked.text)

    # ---------------------------------------------------------------------------------- inside

    def _history(self, user: str, given: Sequence[int]) -> tuple[Histories, str, tuple[str, ...]]:
        """What is known of somebody as one row, who they are in words, and what to tell them."""
        parts = self.parts
        wrong = [item for item in given if not 0 <= item < len(parts.titles)]
        if wrong:
            raise FlowError(f"there is no item {wrong[0]}: items are 0 to {len(parts.titles) - 1}")
        row = parts.people.get(user)
        if row is not None:
            history = parts.histories.take(np.array([row]))
            if len(history.item_T):
                told = ("the given items are left aside: their own history counts",)
                return history, "known person", told if given else ()
        history = from_lists([list(given)], len(parts.titles), np.array([-1]))
        ratings = parts.histories.rating_T
        if ratings is not None:  # what one names unasked is taken as liked
            liked = np.full(len(given), ratings.max() if len(ratings) else 1, np.float32)
            history = dataclasses.replace(history, rating_T=liked)
        missing = "has no event yet" if row is not None else "is not known"
        if given:
            told = f"{user!r} {missing}: folded in from {len(given)} given item(s)"
            return history, "new person, given items", (told,)
        return (
            history,
            "new person",
            (f"{user!r} {missing}: cold start by popularity and the query",) if user else (),
        )

    def _person_vector(self, history: Histories) -> Float[np.ndarray, "1 E"] | None:
        if not len(history.item_T) or self.parts.person_vectors is None:
            return None
        return self.parts.person_vectors(history)

    def _persona(self, person_1E: np.ndarray | None) -> str | None:
        if person_1E is None or self.parts.personas is None:
            return None
        return self.parts.personas.labels[int(self.parts.personas.assign(person_1E)[0])]

    def _query_vector(self, history: Histories, asked: Query) -> Float[np.ndarray, "1 D"] | None:
        """The query's, without one the mean of what they like now and at heart; None where nothing is known."""
        if asked.text:
            return self.parts.encode([asked.text])
        if not len(history.item_T):
            return None
        vectors_TD = self.parts.vectors(history.item_T)
        own = dataclasses.replace(history, item_T=np.arange(len(vectors_TD)))
        taste = preference_vectors(own, vectors_TD)
        mean_1D = taste.short_BE + taste.long_BE
        return mean_1D / np.maximum(np.linalg.norm(mean_1D), 1e-9)

    def _diverse(
        self, items_J: np.ndarray, near_J: np.ndarray, vectors_JD: np.ndarray
    ) -> Int[np.ndarray, " J"]:
        """Which of the candidates remain, as places among them. near_J: how relevant each is, 1 being much."""
        if not len(items_J):
            return np.zeros(0, np.int64)
        places = Shortlist(np.arange(len(items_J))[None], near_J[None])
        settings = self.settings
        kept = diversify(
            places,
            vectors_JD[None],
            settings.diverse,
            method=settings.method,
            duplicate=settings.duplicate,
            lam=settings.lam,
        ).items_BJ[0]
        return kept[kept >= 0]


def _answering(kept_J: np.ndarray, near_J: np.ndarray, settings: FlowSettings) -> np.ndarray:
    """The places of the candidates that come near enough to the query, or of the k nearest where these are fewer."""
    near = near_J[kept_J]
    enough = near >= settings.near * near.max(initial=0.0)
    if enough.sum() < settings.k:
        enough = np.zeros(len(near), bool)
        enough[np.argsort(-near, kind="stable")[: settings.k]] = True
    return kept_J[enough]


def _matched(found: Shortlist, items_J: np.ndarray) -> Float[np.ndarray, " J"]:
    """How well each item matches the words, 1 being the best match; 0 for one that was not found."""
    score_of = dict(zip(found.items_BJ[0].tolist(), found.scores_BJ[0].tolist(), strict=True))
    best = max(float(found.scores_BJ[0, 0]), 1e-12)
    return np.array([score_of.get(item, 0.0) / best for item in items_J.tolist()], np.float32)


def weigh(
    scores: Mapping[str, Float[np.ndarray, " J"]], weights: FlowWeights
) -> tuple[Float[np.ndarray, " J"], dict[str, Float[np.ndarray, " J"]]]:
    """The weighted sum of scores, each standardised over the candidates, and its parts.

    A score that is the same for all candidates says nothing and gives zeros.
    """
    parts = {
        name: weighted_z({name: score_J[None]}, {name: getattr(weights, name)})[0]
        for name, score_J in scores.items()
    }
    size = len(next(iter(scores.values()), ()))
    return sum(parts.values(), np.zeros(size)), parts


class _Clock:
    """Milliseconds spent in each stage; a stage may be entered more than once."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = defaultdict(float, dict.fromkeys(STAGES, 0.0))

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.ms[stage] += 1e3 * (time.perf_counter() - began)


def _merged(lists: Sequence[np.ndarray], seen: np.ndarray) -> Int[np.ndarray, " J"]:
    """Lists taken by turns, each item once, without those seen and without -1."""
    width = max((len(one) for one in lists), default=0)
    table = np.full((width, max(len(lists), 1)), -1, np.int64)
    for column, one in enumerate(lists):
        table[: len(one), column] = one
    flat = table.ravel()
    flat = flat[(flat >= 0) & ~np.isin(flat, seen)]
    _, first = np.unique(flat, return_index=True)
    return flat[np.sort(first)]

"""Floor 4: what a flow gives and why: items with sentences that can be checked in the shop's events and catalogue.

Nothing is written by a model. A reason counts people, names an event of the person's own, or repeats what the catalogue
says, and it is given only where it is true of this item and this person.
"""

import dataclasses
import time
from collections.abc import Iterable

import numpy as np

from jaxrec.data.histories import Histories
from jaxrec.dialogue.prompts.items import join_words
from jaxrec.people.preferences import DAY
from jaxrec.recommenders.flow.pipeline import FlowParts
from jaxrec.recommenders.flow.shop import Shop
from jaxrec.retrieval.lexical import stem
from jaxrec.words import words

ALIKE = 0.6  # cosine of two texts from which they are called alike,
NEAR = 0.3  # of a query and a text
FEW = 2  # people who make a habit
RECENT = 90 * DAY
TELLING = 0.5  # of all items; a category or brand of more says nothing
GOOD = 0.75  # of the scale of ratings: what is worth telling
TITLE = 45  # characters of a title inside a reason


@dataclasses.dataclass(frozen=True)
class SupportingEvent:
    """An event of the person's own that speaks for an item. time: Unix seconds. together: others who took both."""

    item: str
    title: str
    time: int | None = None
    rating: float | None = None
    together: int = 0


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """One item. score: the weighted sum of standardised scores, comparable within its list only.

    reasons: true sentences, the strongest first; empty where none were asked for. evidence: the person's own events
    that speak for the item.
    """

    item: str
    title: str
    score: float
    reasons: tuple[str, ...] = ()
    evidence: tuple[SupportingEvent, ...] = ()

    @property
    def why(self) -> str:
        """The reasons as one line."""
        return "; ".join(self.reasons)


class Recommendations(list[Recommendation]):
    """A list of recommendations, best first. `print` shows it as a table.

    found: the items, best first. user: whom they are for, "" for nobody. query: what was asked, "" for nothing.
    notes: what was guessed, left aside or not known. persona: the taste of the person's group, in words ("" unknown).
    """

    def __init__(
        self,
        found: Iterable[Recommendation] = (),
        user: str = "",
        query: str = "",
        persona: str = "",
        notes: tuple[str, ...] = (),
    ):
        super().__init__(found)
        self.user, self.query, self.persona, self.notes = user, query, persona, notes

    def __str__(self) -> str:
        lines = [f"note: {note}" for note in self.notes]
        for place, one in enumerate(self, 1):
            lines.append(f"{place:3d}  {one.score:+6.2f}  {one.title}  ({one.item})")
            lines += [f"               - {reason}" for reason in one.reasons]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Why:
    """The reasons of one item, strongest first, and the events behind them."""

    reasons: tuple[str, ...]
    evidence: tuple[SupportingEvent, ...]


class Reasons:
    """Finds the reasons for items of a list, for one person and one query.

    shop: titles, facts and events. parts: the encoder and the vectors, if there are any. history: the person's
    events, one row. query: what was asked, "" for nothing.
    """

    def __init__(self, shop: Shop, parts: FlowParts, history: Histories, query: str):
        self.shop, self.parts, self.history = shop, parts, history
        self.person = int(history.user_B[0])
        self.asked = {stem(word): word for word in _words(query)}
        self.query_D = parts.encode([query])[0] if query and parts.encode else None
        self.places = self._liked()
        own_T = history.item_T[self.places]
        self.vectors_TD = parts.vectors(own_T) if len(own_T) else None

    def why(self, item: int) -> Why:
        """At most four reasons for an item."""
        found = [*self._query(item)]
        along, alike = self._events(item)
        if along:
            by = [f"{_named(event)} by {event.together:,} others" for event in along]
            found.append(f"taken along with {join_words(by)}")
        found += [f"it is like {_named(event)}" for event in alike]
        found += self._kinds(item)
        found += self._rated(item)
        if not found or not len(self.history.item_T):
            found += self._popular(item)
        if not found:
            found.append(
                "people with a history like yours take such items next"
                if "sequence" in self.parts.rankers
                else "nothing else speaks for it than its place among what is left"
            )
        return Why(tuple(found[:4]), (*along, *alike))

    # ---------------------------------------------------------------------------------- inside

    def _liked(self) -> np.ndarray:
        """The places of the events that may speak for something: one an item, the newest, none that was disliked."""
        rows, scale = self.history, self.shop.histories.rating_T
        places = np.arange(len(rows.item_T))
        if rows.rating_T is not None and scale is not None and len(scale):
            middle = (float(scale.min()) + float(scale.max())) / 2
            places = places[rows.rating_T >= middle]
        _, last = np.unique(rows.item_T[places][::-1], return_index=True)
        return np.sort(places[::-1][last])

    def _query(self, item: int) -> list[str]:
        if not self.asked:
            return []
        text = " ".join([self.shop.titles[item], self.shop.items.text(item)])
        own = {stem(word) for word in _words(text)}
        met = [word for start, word in self.asked.items() if start in own]
        if met:
            return ["matches your query: " + ", ".join(met[:4])]
        if self.query_D is None:
            return []
        near = float(self.parts.vectors(np.array([item]))[0] @ self.query_D)
        return ["close in meaning to your query"] if near >= NEAR else []

    def _events(self, item: int) -> tuple[list[SupportingEvent], list[SupportingEvent]]:
        """At most two events that others have along with the item, and where there is one less, one that is like it."""
        if not len(self.places):
            return [], []
        own_T = self.history.item_T[self.places]
        both_T = self._together(own_T, item)
        alike_T = self.vectors_TD @ self.parts.vectors(np.array([item]))[0]
        # what nearly everybody has speaks for nothing
        weight_T = both_T / np.sqrt(np.maximum(self.shop.taken_I[own_T], 1))
        best = np.argsort(-(weight_T + 1e-3 * alike_T), kind="stable")[:2].tolist()
        along = [self._event(t, int(both_T[t])) for t in best if both_T[t] >= FEW]
        texts = bool(self.shop.items.title) and self.parts.encode is not None
        place = int(np.argmax(alike_T))
        like = self._event(place, int(both_T[place]))
        near = texts and alike_T[place] >= ALIKE and len(along) < 2 and like not in along
        return along, [like] if near else []

    def _together(self, own_T: np.ndarray, item: int) -> np.ndarray:
        """How many other people have both the item and each of these. [T]"""
        rows = self.shop.histories
        takers = np.unique(rows.row_T[rows.item_T == item]) if len(own_T) else own_T[:0]
        takers = takers[takers != self.person]
        if not len(takers):
            return np.zeros(len(own_T), np.int64)
        theirs = rows.take(takers)
        pairs = np.unique(theirs.row_T * np.int64(rows.n_items) + theirs.item_T)
        count_I = np.bincount(pairs % rows.n_items, minlength=rows.n_items)
        return count_I[own_T]

    def _event(self, place: int, together: int) -> SupportingEvent:
        at, rows = int(self.places[place]), self.history
        item = int(rows.item_T[at])
        when = None if rows.time_T is None else int(rows.time_T[at])
        rating = None if rows.rating_T is None else float(rows.rating_T[at])
        return SupportingEvent(self.shop.ids[item], self.shop.titles[item], when, rating, together)

    def _kinds(self, item: int) -> list[str]:
        """The category and the brand that the person has taken more often than the shop has them, counted."""
        items, own = self.shop.items, self.history.item_T[self.places].tolist()
        found = []
        for column in (items.category, [(brand,) for brand in items.brand or ()]):
            best: tuple[float, int, str] | None = None
            for kind in column[item] if column else ():
                share, count = self.shop.share_of[kind], sum(kind in column[i] for i in own)
                gain = count / max(len(own), 1) / max(share, 1e-9)
                if kind and count >= FEW and share <= TELLING and gain > 1:
                    best = max(best or (0.0, 0, ""), (gain, count, kind))
            if best:
                found.append(f"{best[2]}: as {best[1]} of the {self._so_many(len(own))}")
        return found

    def _so_many(self, count: int) -> str:
        verb = "took" if self.history.rating_T is None else "liked"
        return f"{count} items you {verb}" if count != 1 else f"one item you {verb}"

    def _rated(self, item: int) -> list[str]:
        ratings = self.shop.histories.rating_T
        mean = float(self.shop.rating_I[item])
        if ratings is None or not np.isfinite(mean) or self.shop.taken_I[item] < 3:
            return []
        low, high = float(ratings.min()), float(ratings.max())
        if mean < low + GOOD * (high - low) or high <= low:
            return []
        return [f"rated {mean:.1f} of {high:g} by {self.shop.taken_I[item]:,}"]

    def _popular(self, item: int) -> list[str]:
        rows, count = self.shop.histories, int(self.shop.taken_I[item])
        if not count:
            return ["new: nobody has taken it yet"]
        times = "once" if count == 1 else f"{count:,} times"
        if rows.time_T is None:
            return [f"taken {times}"]
        newest = int(rows.time_T.max())
        recent = int((rows.time_T[rows.item_T == item] > newest - RECENT).sum())
        return [f"taken {times}, {recent:,} in the last 90 days of the data"]


def _named(evidence: SupportingEvent) -> str:
    """An event in words: the item, when it was taken and how it was rated."""
    title = evidence.title
    short = title if len(title) <= TITLE else title[: TITLE - 3].rstrip() + "..."
    told = []
    if evidence.time is not None:
        told.append(time.strftime("%d %b %Y", time.gmtime(evidence.time)).lstrip("0"))
    if evidence.rating is not None:
        told.append(f"rated {evidence.rating:g}")
    return f"“{short}”" + (f" ({', '.join(told)})" if told else "")


def _words(text: str) -> list[str]:
    return [word for word in words(text.casefold()) if len(word) > 2]

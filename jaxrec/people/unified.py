"""Floor 2: one profile over several shops (Rec-LLM v0): history in sessions, semantic ids, tastes, rhythm.

    profile = UnifiedProfile("person_007", items)
    profile.add(Event(item=12, time=1_735_700_000, context={"device": "phone"}))
    profile.purge(before=1_735_000_000)
    profile.as_dict()

Updated at each event, purged by age; either gives the profile that the remaining events alone would give.
"""

import bisect
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxrec.people.preferences import DAY, FadingMean, HalfLives
from jaxrec.people.traits import rhythm

SESSION_GAP = 6 * 3_600  # seconds of silence that end a session


@dataclasses.dataclass(frozen=True)
class Event:
    """An item at a time (Unix seconds), with what else is known of the moment."""

    item: int
    time: int
    context: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ItemKnowledge:
    """Of items, row i being item i: vectors in one space over all shops, the shop, the codes."""

    vectors_IE: np.ndarray
    shop: Sequence[str]
    codes_IQ: np.ndarray | None = None  # semantic ids


class UnifiedProfile:
    """All that is known of one person over all shops. `demographics` should come out of `anonymised`.

    person: a name. items: vectors, shops and codes of the items that events refer to. events: the first ones, in
    any order. half_lives: how fast the weight of an event fades, None: the defaults.
    """

    def __init__(
        self,
        person: str,
        items: ItemKnowledge,
        events: Iterable[Event] = (),
        demographics: Mapping[str, str] | None = None,
        half_lives: HalfLives | None = None,
    ):
        self.person, self.items = person, items
        self.half_lives = half_lives or HalfLives()
        self.demographics = dict(demographics or {})
        self.events: list[Event] = []
        self._forget_tastes()
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """One more event, in whatever order of time. Raises ValueError for an item that is not known."""
        if not 0 <= event.item < len(self.items.vectors_IE):
            raise ValueError(f"no item {event.item}: {len(self.items.vectors_IE)} are known")
        bisect.insort(self.events, event, key=lambda e: e.time)
        for mean in (self._short, self._long):
            mean.add(self.items.vectors_IE[event.item], event.time)

    def purge(self, before: int) -> int:
        """Forgets the events before a time; how many were forgotten."""
        kept = [event for event in self.events if event.time >= before]
        gone = len(self.events) - len(kept)
        if gone:
            self.events = []
            self._forget_tastes()
            for event in kept:
                self.add(event)
        return gone

    @property
    def short_term_E(self) -> Float[np.ndarray, " E"] | None:
        """What they like now; None without events."""
        return self._short.value_E

    @property
    def long_term_E(self) -> Float[np.ndarray, " E"] | None:
        """What they like at heart; None without events."""
        return self._long.value_E

    def sessions(self) -> dict[str, list[list[Event]]]:
        """By shop, the visits in order: events with less than `SESSION_GAP` of silence between them."""
        found: dict[str, list[list[Event]]] = {}
        for event in self.events:
            visits = found.setdefault(self.items.shop[event.item], [])
            if visits and event.time - visits[-1][-1].time < SESSION_GAP:
                visits[-1].append(event)
            else:
                visits.append([event])
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; parts of which nothing is known are absent."""
        found: dict[str, Any] = {"person": self.person, "n_events": len(self.events)}
        if self.events:
            found["history"] = {
                shop: [
                    {
                        "from": visit[0].time,
                        "to": visit[-1].time,
                        "events": [self._told(event) for event in visit],
                    }
                    for visit in visits
                ]
                for shop, visits in self.sessions().items()
            }
            found["preferences"] = {
                "short_term": self.short_term_E.tolist(),
                "long_term": self.long_term_E.tolist(),
            }
            times_T = np.array([event.time for event in self.events], np.int64)
            found["temporal_patterns"] = rhythm(times_T)
        if self.demographics:
            found["demographics"] = dict(self.demographics)
        return found

    def _told(self, event: Event) -> dict[str, Any]:
        told: dict[str, Any] = {"item": event.item, "time": event.time}
        if self.items.codes_IQ is not None:
            told["semantic_id"] = self.items.codes_IQ[event.item].tolist()
        return told | ({"context": dict(event.context)} if event.context else {})

    def _forget_tastes(self) -> None:
        dim = self.items.vectors_IE.shape[1]
        self._short = FadingMean(dim, self.half_lives.short_days * DAY)
        self._long = FadingMean(dim, self.half_lives.long_days * DAY)

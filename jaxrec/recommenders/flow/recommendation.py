"""Floor 4: what a flow gives: items with their reasons, and what is to be said of the list as a whole."""

import dataclasses
from collections.abc import Iterable

from jaxrec.recommenders.flow.reasons import SupportingEvent


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

"""A conversation with a shop: `dialogue.machine` reads what is wished, `recommenders.flow` makes lists that obey it."""

import dataclasses
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jaxrec.chat.keeping import Kept
from jaxrec.chat.orders import OrderError, Said
from jaxrec.dialogue.checks import broken_wish
from jaxrec.dialogue.machine import Action, Talk, hear
from jaxrec.dialogue.memory import said
from jaxrec.dialogue.phrases import phrase
from jaxrec.dialogue.state import Shown, Wishes
from jaxrec.recommenders.flow import Flow, Recommendation

_MORE = 30  # items beyond the list, to have enough where wishes rule some out
_PRICE = re.compile(r"\d+(?:[.,]\d{1,2})?")


class ShopSession:
    """Recommends in one shop, to one person.

    flow: of the shop. user: as its events name them, "" unknown. kept: where the conversation lies. k: items of a list.
    talk: how messages are read. notes: what was chosen or guessed when it was opened.
    """

    def __init__(
        self,
        flow: Flow,
        user: str,
        kept: Kept,
        k: int = 5,
        talk: Talk | None = None,
        notes: Sequence[str] = (),
    ):
        self.flow, self.user, self.kept, self.k = flow, user, kept, k
        self.talk = talk or Talk()
        self.title, self.notes = f"{flow.shop.name}, for {user or 'somebody'}", list(notes)
        self.state = kept.state()
        self.found: list[Recommendation] = []
        self._why: list[str] = []
        if self.state.count:
            self.notes.append(f"goes on after {self.state.count} turns")

    def say(self, message: str | bytes, tell: Callable[[str], None] | None = None) -> Said:
        """As `Session.say`."""
        began = time.perf_counter()
        state, action = hear(self.talk, self.state, message)
        if action.kind == "ask" and "shop" in (action.slot, state.asked):
            # There is but one shop here: which of several is meant need not be asked.
            state = state.change(asked="", options=(), goal="find")
            action = Action("recommend", "", state.query, goal="find", wishes=state.wishes)
        heard = time.perf_counter()
        shown: list[Shown] | None = None
        notes = list(action.notes)
        if action.kind == "recommend":
            found, more = self._list(action.query, action.wishes)
            notes += more
            text = self._told(action, found, action.language)
            if found:
                self.found, shown = found, [self._shown(one) for one in found]
        elif action.kind == "explain":
            text = self._reasons(action.item)
        elif action.kind == "answer":
            notes.append(
                "a shop's events hold no answers to questions; a tenant's pages do (--tenant)"
            )
            text = phrase("not said", action.language)
        else:
            text = action.text
        self.state = said(state, text, shown=shown)
        self.kept.put(self.state)
        seconds = {"hear": heard - began, "recommend": time.perf_counter() - heard}
        self._why = [f"{action.kind}: {action.query or text}"]
        self._why += [", ".join(f"{name} {value * 1000:.0f} ms" for name, value in seconds.items())]
        self._why += [f"note: {note}" for note in notes]
        if tell is not None:
            tell(text)
        kind = "list" if action.kind == "recommend" else action.kind
        items = [dataclasses.asdict(one) for one in self.found] if kind == "list" and shown else []
        told: dict[str, Any] = {"reply": text, "action": kind, "items": items, "notes": notes}
        told["seconds"] = {name: round(value, 4) for name, value in seconds.items()}
        return Said(text, told)

    def why(self) -> str:
        """What was understood, and why each item of the last list stands in it."""
        if not self._why:
            raise OrderError("nothing was answered yet: ask for something first")
        lines = list(self._why)
        for i, one in enumerate(self.found, 1):
            lines += [f"{i}  {one.title}  {one.score:+.2f}", *(f"     - {r}" for r in one.reasons)]
        return "\n".join(lines)

    def sources(self) -> str:
        """The person's own events that speak for the items of the last list."""
        if not self.found:
            raise OrderError("there is no list yet: ask for something first")
        lines = []
        for i, one in enumerate(self.found, 1):
            own = [f"     you took {e.title} ({e.together} others took both)" for e in one.evidence]
            lines += [f"{i}  {one.title}", *(own or ["     no event of yours"])]
        return "\n".join(lines)

    def judge(self, liked: bool, place: int | None) -> str:
        """A thumb for an item of the last list; the next list obeys it."""
        if not self.found:
            raise OrderError("there is no list yet: ask for something first")
        if place is None and len(self.found) > 1:
            raise OrderError(f"which of the {len(self.found)}? /{'like' if liked else 'dislike'} 1")
        if not 1 <= (place or 1) <= len(self.found):
            raise OrderError(f"the last list has the places 1 to {len(self.found)}")
        one, old = self.found[(place or 1) - 1], self.state.wishes
        other = tuple(x for x in (old.disliked if liked else old.liked) if x != one.item)
        mine = tuple(dict.fromkeys([*(old.liked if liked else old.disliked), one.item]))
        without = tuple(x for x in old.without if x != one.item)
        wishes = dataclasses.replace(
            old,
            liked=mine if liked else other,
            disliked=other if liked else mine,
            without=without if liked else (*without, one.item),
        )
        self.state = self.state.change(wishes=wishes)
        self.kept.put(self.state)
        where = self.kept.thumb({"user": self.user, "item": one.item, "liked": liked})
        return f"{'liked' if liked else 'disliked'} {one.title}: the next list knows, {where}"

    def profile(self) -> str:
        """What is known of the person: their events, their taste, what they wish now."""
        shop, wishes = self.flow.shop, self.state.wishes
        row = shop.people.get(self.user)
        lines = [f"{self.user or 'somebody'}: not known to {shop.name}"]
        if row is not None:
            start, length = shop.histories.start_B[row], int(shop.histories.length_B[row])
            last = shop.histories.item_T[start : start + length][-5:]
            lines = [
                f"{self.user}: {length} events in {shop.name}",
                f"the last: {', '.join(shop.titles[i] for i in reversed(last))}",
            ]
        title = lambda item: shop.titles[shop.number[item]] if item in shop.number else item
        for name in ("liked", "disliked", "without"):
            if items := getattr(wishes, name):
                lines.append(f"{name}: {', '.join(map(title, items))}")
        lines += [f"avoids: {', '.join(wishes.avoid)}"] if wishes.avoid else []
        bounds = [f"from {wishes.least:g}"] if wishes.least is not None else []
        bounds += [f"up to {wishes.most:g}"] if wishes.most is not None else []
        return "\n".join([*lines, *([f"price: {' '.join(bounds)}"] if bounds else [])])

    def forget(self) -> str:
        """Lets go of the conversation and its wishes; the shop's own events are not the chat's to remove."""
        count, gone = self.state.count, self.kept.forget()
        self.state, self.found, self._why = self.kept.fresh, [], []
        return f"{count} turns are forgotten" + (f"; removed {', '.join(gone)}" if gone else "")

    # -------------------------------------------------------------------------------------- inside

    def _list(self, query: str, wishes: Wishes) -> tuple[list[Recommendation], list[str]]:
        """Items that obey the wishes, and what is to be said about them."""
        wide = self.k + _MORE + len(wishes.without)
        known = self.user in self.flow.shop.people
        liked = [item for item in wishes.liked if item in self.flow.shop.number]
        made = self.flow.recommend(self.user, query, wide, liked=() if known else liked)
        found, notes = list(made), list(made.notes)
        if known and liked:
            # What is liked now is no event yet: what goes with it is taken in turn with what goes with the person.
            near = self.flow.recommend("", query, wide, liked=liked)
            found = _in_turn(found, [one for one in near if one.item not in self._taken()])
            notes.append(f"every second item goes with {len(liked)} that you liked now")
        if (wishes.most, wishes.least) != (None, None) and self.flow.shop.items.price is None:
            notes.append("this shop tells no prices: the bounds could not be kept")
        return [one for one in found if self._obeys(one, wishes)][: self.k], notes

    def _obeys(self, one: Recommendation, wishes: Wishes) -> bool:
        liked = one.item in wishes.liked  # they know it already
        return not liked and not broken_wish(self._shown(one), wishes, self.talk.shops)

    def _taken(self) -> set[str]:
        """What the person took before, as far as the shop's events go."""
        shop = self.flow.shop
        row = shop.people[self.user]
        start, length = int(shop.histories.start_B[row]), int(shop.histories.length_B[row])
        return {shop.ids[item] for item in shop.histories.item_T[start : start + length]}

    def _about(self, item: str) -> str:
        number, items = self.flow.shop.number[item], self.flow.shop.items
        kinds = " ".join(items.category[number]) if items.category else ""
        return f"{self.flow.shop.titles[number]} {kinds}"

    def _price(self, item: str) -> float | None:
        prices = self.flow.shop.items.price
        found = _PRICE.search(prices[self.flow.shop.number[item]] or "") if prices else None
        return float(found[0].replace(",", ".")) if found else None

    def _shown(self, one: Recommendation) -> Shown:
        return Shown(one.item, one.title, self._price(one.item), self._about(one.item))

    def _told(self, action: Action, found: Sequence[Recommendation], language: str) -> str:
        if not found:
            wishes = action.wishes
            limits = [*wishes.avoid, *(["price"] if wishes.most is not None else [])]
            return phrase("none left", language, limits=", ".join(limits) or action.query or "...")
        lead = action.text or phrase("list", language)
        rows = [
            f"{i}. {one.title}" + (f" ({one.reasons[0]})" if one.reasons else "")
            for i, one in enumerate(found, 1)
        ]
        return "\n".join([lead, *rows])

    def _reasons(self, item: str) -> str:
        one = next((one for one in self.found if one.item == item), None)
        if one is None or not one.reasons:
            return phrase("not said", self.state.language or "en")
        return f"{one.title}: {'; '.join(one.reasons)}."


def _in_turn(
    first: Sequence[Recommendation], second: Sequence[Recommendation]
) -> list[Recommendation]:
    """One of each in turn, none twice."""

    def both() -> Iterator[Recommendation]:
        for i in range(max(len(first), len(second))):
            yield from first[i : i + 1]
            yield from second[i : i + 1]

    return list({one.item: one for one in reversed(list(both()))}.values())[::-1]

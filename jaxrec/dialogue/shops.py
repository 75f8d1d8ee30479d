"""Floor 3: the three shops (food, goods, health), what people want of them, and how a message is read for that.

Shops, goals, slots and the words that speak for them are a file (`texts/shops.toml`, or one of your own in its form).
The reader counts such words; where two shops or two goals have as many, the reading is a tie, and the machine asks.
"""

import dataclasses
import functools
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jaxrec.config import RunError
from jaxrec.data.schema_dialogues import Goal, Slot
from jaxrec.words import words

_ORDER = re.compile(
    r"(?:#|№|\b(?:order|number|no\.?|заказ\w*|номер)\s*:?\s*#?№?\s*)([A-Za-zА-Яа-я]{0,3}-?\d{3,12})\b|\b(\d{4,12})\b",
    re.IGNORECASE,
)
_READ = 4_000  # characters
_ENDINGS = {
    *("", "s"),
    *"а у ы е и ом ов ой ам ами ах ик ики ный ная ное ного ной ные ных ную".split(),
}
_FAULT = re.compile(
    r"\b(?:broken|damaged|wrong|late|cold|missing|stale|spoiled|faulty|сломан|разбит|повреж|не\s+тот|не\s+та|холодн|испорч|опозд)",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class ShopKind:
    """One shop: its names by language, what it is about, and beginnings of words that speak for it."""

    name: str
    names: Mapping[str, str]
    about: str
    words: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Avoided:
    """A kind of thing that some people must avoid: what they call it, and what it is called in titles; beginnings."""

    names: tuple[str, ...]
    words: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Shops:
    """What a conversation can be about. goal_words: beginnings of words, or of word-after-word, by goal."""

    shops: tuple[ShopKind, ...]
    goals: tuple[Goal, ...]
    slots: tuple[Slot, ...]
    goal_words: Mapping[str, tuple[str, ...]]
    avoid: tuple[Avoided, ...]

    def goal(self, name: str) -> Goal:
        """A goal by its name."""
        return next(one for one in self.goals if one.name == name)

    def slot(self, name: str) -> Slot:
        """A slot by its name."""
        return next(one for one in self.slots if one.name == name)

    def shop(self, name: str) -> ShopKind:
        """A shop by its name."""
        return next(one for one in self.shops if one.name == name)

    def forbidden(self, avoid: Iterable[str], text: str) -> tuple[str, ...]:
        """Those of the words to be avoided that a text (of an item, of an answer) has, by name or by kind."""
        said = words(text)
        return tuple(
            word
            for word in avoid
            if any(_begins(one, start) for one in said for start in self.stands_for(word))
        )

    def stands_for(self, word: str) -> tuple[str, ...]:
        """Beginnings of the words that are meant with one that must be avoided: its own, and those of its kind."""
        word = word.casefold()
        kinds = [k.words for k in self.avoid if any(_begins(word, name) for name in k.names)]
        stem = word[:-2] if len(word) > 5 else word[:-1] if len(word) > 4 else word
        return tuple(dict.fromkeys([stem, *(one for kind in kinds for one in kind)]))


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a message seems to be about. shops, goals: how much speaks for each, the most first. slots: what is told."""

    shops: Mapping[str, float]
    goals: Mapping[str, float]
    slots: Mapping[str, str]


Read = Callable[[str], Reading]


def read_shops(path: str | Path | None = None) -> Shops:
    """The shops of a file in the form of `texts/shops.toml`; None: that one. Raises RunError."""
    if path is None:
        return _own_shops()
    try:
        return _shops(tomllib.loads(Path(path).read_text("utf-8")), str(path))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RunError(f"the shops' file {path} cannot be read: {error}") from None


def read_message(text: str, shops: Shops) -> Reading:
    """Reads a message by its words: the first few hundred, in which a wish of one's own stands."""
    said = words(text[:_READ])
    by_shop = {one.name: float(_hits(said, one.words)) for one in shops.shops}
    by_goal = {name: float(_hits(said, starts)) for name, starts in shops.goal_words.items()}
    slots = {}
    if by_goal.get("status", 0) or by_goal.get("return", 0) or re.search("order|заказ", text, re.I):
        if found := _ORDER.search(text):
            slots["order"] = found[1] or found[2]
    if by_goal.get("return", 0) and _FAULT.search(text):
        slots["reason"] = text
    best = lambda counts: dict(
        sorted(((k, v) for k, v in counts.items() if v), key=lambda x: -x[1])
    )
    return Reading(best(by_shop), best(by_goal), slots)


def order_number(text: str) -> str:
    """The number of an order in a text that was asked for one; "" where there is none."""
    found = _ORDER.search(text) or re.search(r"\b()([A-Za-z]{0,3}-?\d{2,12})\b", text)
    return (found[1] or found[2]) if found else ""


# ------------------------------------------------------------------------------------------ inside


def _hits(said: Sequence[str], starts: Sequence[str]) -> int:
    """How many of the beginnings stand in a text; one of several words counts for as many."""
    count, different = 0, set(said)
    for start in starts:
        parts = start.split("-")
        if len(parts) == 1:
            count += any(_begins(word, start) for word in different)
            continue
        for place in range(len(said) - len(parts) + 1):
            if all(_begins(said[place + i], part) for i, part in enumerate(parts)):
                count += len(parts)
                break
    return count


def _begins(word: str, start: str) -> bool:
    """Whether a word is this one with another ending: of short ones only with the usual endings."""
    if len(start) <= 3:
        return word.startswith(start) and word[len(start) :] in _ENDINGS
    return word.startswith(start)


@functools.cache
def _own_shops() -> Shops:
    own = resources.files(__package__) / "texts/shops.toml"
    return _shops(tomllib.loads(own.read_text("utf-8")), "shops.toml")


def _shops(told: Mapping[str, Any], where: str) -> Shops:
    try:
        kinds = [
            ShopKind(name, one["name"], one["about"], tuple(one["words"].casefold().split()))
            for name, one in told["shop"].items()
        ]
        goals = [
            Goal(name, one["about"], tuple(one["needs"]), tuple(one["may"]))
            for name, one in told["goal"].items()
        ]
        slots = [Slot(name, one["about"], ask=one["ask"]) for name, one in told["slot"].items()]
        goal_words = {
            name: tuple(one["words"].casefold().split()) for name, one in told["goal"].items()
        }
        avoid = tuple(
            Avoided(tuple(one["names"].split()), tuple(one["words"].split()))
            for one in told.get("avoid", {}).values()
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{where} lacks what a file of shops has: {error!r}") from None
    lost = {name for goal in goals for name in (*goal.needs, *goal.may)} - {s.name for s in slots}
    if lost or not kinds or not goals:
        raise RunError(
            f"{where}: {f'no slot is called {min(lost)!r}' if lost else 'no shop, or no goal'}"
        )
    return Shops(tuple(kinds), tuple(goals), tuple(slots), goal_words, avoid)

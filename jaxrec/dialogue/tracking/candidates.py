"""Floor 3: which values a slot could take at a turn, and what speaks for each, as features by name.

A candidate is a value from the user's own words, from what the system offered, from another service of the same
conversation, or one of a closed list (yes and no too); "dontcare" is one where the user seems not to mind. Features
cross words of the schema (the slot's name and description) with the words around the value, with the system's question
and with the value's form, so that a slot of an unknown service is known by its words.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from jaxrec.data.schema_dialogues import ANYTHING, Goal, Schema, SchemaDialogue, Slot
from jaxrec.dialogue.tracking.spans import Span, Token, shape, tokens_of

_CARELESS = re.compile(
    r"\b(?:any|anything|anywhere|anytime|matter|care|whatever|whichever|preference|particular|flexible|either|mind|fussy|picky)\b",
    re.IGNORECASE,
)
_NUMBERS = dict(
    zip("one two three four five six seven eight nine ten".split(), range(1, 11), strict=True)
)
_ARTICLE = re.compile(r"^(?:the|a|an)\s+")
_NO_PHRASES = {ANYTHING, "true", "false"}
_LONGEST = 6  # tokens of a known value that is sought
_DULL = set(
    "of the a an to for in on at is or and with by whether name from be used this that which type".split()
)


class Candidate(NamedTuple):
    """A value that a slot could take, and what speaks for it. place: which span of the turn it is, -1 none."""

    slot: str
    value: str
    place: int
    features: list[str]


class Heard(NamedTuple):
    """A user's turn with what stood before it. offers: values of the system's last turns, the newest first."""

    text: str
    tokens: list[Token]
    spans: list[Span]
    system: str
    offers: list[tuple[int, str]]  # (how many system turns ago, value)


def plain(value: str) -> str:
    """A value as it is compared: small letters, no article, no signs."""
    return _ARTICLE.sub("", re.sub(r"[^\w:$]+", " ", value.casefold()).strip())


class KnownValues:
    """Values that slots have had: which words those of a name have ("city": "london", "paris"), and whole ones.

    words: by a word of the slot's name. phrases: whole values that are not only numbers.
    """

    def __init__(self, words: Mapping[str, frozenset[str]], phrases: frozenset[str] = frozenset()):
        self._words, self._phrases = words, phrases

    @classmethod
    def of(cls, dialogues: Iterable[SchemaDialogue]) -> "KnownValues":
        """Those of the last turns of these dialogues."""
        found: dict[str, set[str]] = defaultdict(set)
        phrases: set[str] = set()
        for dialogue in dialogues:
            frames = {f.service: f for turn in dialogue.turns for f in turn.frames}
            for frame in frames.values():
                for slot, values in frame.values.items():
                    value = plain(values[0])
                    if len(value) > 3 and value not in _NO_PHRASES and not value.isdigit():
                        phrases.add(value)
                    for part in slot.split("_"):
                        found[part] |= set(value.split())
        words = {name: frozenset(own) for name, own in found.items()}
        return cls(words, frozenset(phrases))

    def spans(self, text: str, taken: Sequence[Span]) -> list[Span]:
        """The spans of a text with those of whole known values that overlap none of them, in order."""
        tokens = tokens_of(text)
        free = [True] * len(tokens)
        for span in taken:
            free[span.first : span.last + 1] = [False] * (span.last - span.first + 1)
        found, i = list(taken), 0
        while i < len(tokens):
            for j in range(min(i + _LONGEST, len(tokens)) - 1, i - 1, -1):
                said = text[tokens[i].start : tokens[j].stop]
                if all(free[i : j + 1]) and plain(said) in self._phrases:
                    found.append(Span(said, i, j))
                    i = j
                    break
            i += 1
        return sorted(found, key=lambda span: span.first)

    def share(self, part: str, value: str) -> float:
        """Which share of a value's words is known of slots with this part in their name."""
        said, known = plain(value).split(), self._words.get(part, ())
        return sum(word in known for word in said) / max(len(said), 1)


def slot_parts(slot: Slot) -> list[str]:
    """The words of a slot's name."""
    return [part for part in slot.name.lower().split("_") if part not in _DULL]


def candidates(
    schema: Schema,
    goal: str,
    heard: Heard,
    state: Mapping[str, str],
    others: Mapping[str, str],
    known: KnownValues,
) -> list[Candidate]:
    """Every candidate of every slot at one turn.

    schema: of the service. goal: what is meant now, "" unknown. heard: the turn. state: values so far. others: values
    by slot of other services of the conversation. known: values that slots of such names have had.
    """
    meant = next((one for one in schema.goals if one.name == goal), None)
    takers = [meant] if meant else schema.goals
    taken = {name for one in takers for name in (*one.needs, *one.may)}
    # A slot that no goal takes is a result, not a wish.
    slots = [slot for slot in schema.slots if slot.name in taken or (meant and slot.name in state)]
    asked = _asked(heard.system)
    return [
        one
        for slot in slots
        for one in _OneSlot(slot, meant, heard, asked, state, known).candidates(others)
    ]


def hear_turn(
    text: str, spans: Sequence[Span], systems: Sequence[tuple[str, Sequence[Span]]], back: int = 3
) -> Heard:
    """A user's turn with what stood before.

    text: the turn. spans: its values. systems: the system's turns before it, with their values, the oldest first. back:
    how many of them still offer.
    """
    offers, seen = [], set()
    for ago, (_, own) in enumerate(reversed(systems[-back:])):
        for span in own:
            if plain(span.text) not in seen:
                seen.add(plain(span.text))
                offers.append((ago, span.text))
    return Heard(text, tokens_of(text), list(spans), systems[-1][0] if systems else "", offers)


# ------------------------------------------------------------------------------------------ inside


class _OneSlot:
    """One slot at one turn: its candidates, each with what is the same for all of them behind its own features."""

    def __init__(
        self,
        slot: Slot,
        goal: Goal | None,
        heard: Heard,
        asked: Sequence[str],
        state: Mapping[str, str],
        known: KnownValues,
    ):
        self.slot, self.heard, self.state, self.known = slot, heard, state, known
        self.words = [token.word for token in heard.tokens]
        self.parts, self.asked = slot_parts(slot), set(asked)
        self.about = [w for w in re.findall(r"\w+", slot.about.lower()) if w not in _DULL][:8]
        does, needs = bool(goal and goal.does), bool(goal and slot.name in goal.needs)
        self.course = f"{does}{needs}{slot.name in state}"
        self.same = [f"has{slot.name in state}", f"need{needs}", f"new{not state}"]
        self.same.append(f"asks{min(sum(w in self.asked for w in {*self.parts, *self.about}), 3)}")
        self.same.append(f"long{min(len(self.words) // 4, 4)}")
        for part in self.parts:
            self.same.append(f"asks={part}&{part in self.asked}")
            self.same += [f"q|{part}|{w}" for w in asked[:12]]

    def candidates(self, others: Mapping[str, str]) -> list[Candidate]:
        """Those of the user's words, of the system's offers, of the other services, and that any will do."""
        slot, heard, found = self.slot, self.heard, []
        if slot.is_choice:
            found += [self._one(*told) for told in _choices(slot, self.parts, self.words)]
        else:
            for place, span in enumerate(heard.spans):
                told = ["user", f"n{min(len(heard.spans), 4)}", *self._value(span.text)]
                told += _around(self.parts, self.about, self.words, span)
                found.append(self._one(span.text, told, place))
        closed = {plain(value) for value in slot.values}
        for ago, value in heard.offers:
            if not closed or plain(value) in closed:
                found.append(self._one(value, self._from(value, f"offer{ago}")))
        if slot.name not in self.state:
            found += [self._other(*one) for one in others.items() if self._is_alike(*one)]
        if _CARELESS.search(heard.text):
            told = ["any", *(f"any&{w in self.words}" for w in self.parts)]
            told += [f"any|{w}|{p in self.asked}" for w in self.words[:16] for p in self.parts]
            found.append(self._one(ANYTHING, told))
        return found

    def _one(self, value: str, told: list[str], place: int = -1) -> Candidate:
        if self.slot.name in self.state:
            told = [*told, f"same as before {plain(self.state[self.slot.name]) == plain(value)}"]
        return Candidate(self.slot.name, value, place, [*told, *self.same])

    def _from(self, value: str, source: str) -> list[str]:
        """What speaks for a value that the user did not say now."""
        told = [source, f"{source}|{self.course}", f"from|{self.course}", *self._value(value)]
        told += [f"{source}|{part}" for part in self.parts]
        return told + [f"{source}|w|{w}" for w in self.words[:14]]

    def _is_alike(self, other: str, value: str) -> bool:
        shares = set(self.parts) & set(other.lower().split("_"))
        return value in self.slot.values or (bool(shares) and not self.slot.is_choice)

    def _other(self, other: str, value: str) -> Candidate:
        """A value that another service has for a slot of a name like this one's."""
        theirs = other.lower().split("_")
        told = [*self._from(value, "other"), f"same{other == self.slot.name}"]
        told.append(f"last{self.parts[-1:] == theirs[-1:]}")
        return self._one(value, told + [f"pair|{a}|{b}" for a in self.parts for b in theirs])

    def _value(self, value: str) -> list[str]:
        """What a value looks like, and whether such slots have had it."""
        words = value.split()
        form = " ".join(shape(word) for word in words[:3])
        share = {part: round(4 * self.known.share(part, value)) for part in self.parts}
        told = [f"form{form}", f"len{min(len(words), 5)}", f"known{max(share.values(), default=0)}"]
        told += [f"form~{w}|{form}" for w in self.about]
        for part in self.parts:
            told += [f"form|{part}|{form}", f"len|{part}|{min(len(words), 4)}"]
            told += [f"known|{part}|{share[part]}", *(f"vw|{part}|{w.lower()}" for w in words[:4])]
        return told


def _asked(system: str) -> list[str]:
    """The words of the system's questions; where it asks nothing, of its last sentence."""
    parts = re.split(r"(?<=[.!?])\s+", system.lower())
    chosen = [part for part in parts if part.endswith("?")] or parts[-1:]
    return [w for part in chosen for w in re.findall(r"\w+", part) if w not in _DULL]


def _around(
    parts: Sequence[str], about: Sequence[str], words: Sequence[str], span: Span
) -> list[str]:
    """The words around a value, crossed with those of the slot."""
    left = ["<", "<", "<", *words[: span.first]][-3:]
    right = [*words[span.last + 1 :], ">", ">"][:2]
    near = {
        f"l1 {left[2]}",
        f"l2 {left[1]} {left[2]}",
        f"l3 {left[0]}",
        f"r1 {right[0]}",
        f"r2 {right[0]} {right[1]}",
    }
    window = {*words[max(span.first - 6, 0) : span.first], *words[span.last + 1 : span.last + 4]}
    return [
        *(f"{part}|{one}" for part in parts for one in near),
        *(f"~{w}|l1 {left[2]}" for w in about),
        f"near{min(sum(w in window for w in {*parts, *about}), 3)}",
        *(f"near={part in window}" for part in parts),
    ]


def _choices(slot: Slot, parts: Sequence[str], words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(value, features) of a closed list: those named in the turn; of yes and no, both."""
    if set(slot.values) <= {"True", "False"}:
        return [(value, _yes_or_no(value, parts, words)) for value in slot.values]
    found = []
    numbers = [str(_NUMBERS.get(w, w)) for w in words]
    for value in slot.values:
        own = value.lower().split()
        # a long word may have another ending
        is_said = lambda part, w: w.startswith(part[:5]) if len(part) > 4 else w == part
        places = [[i for i, w in enumerate(numbers) if is_said(part, w)] for part in own]
        hits = sum(map(bool, places))
        if not hits:
            continue
        place = min(i for one in places for i in one[:1])
        left, right = ["<", *words][place], [*words, ">", ">"][place + 1]
        told = [
            f"choice{round(4 * hits / len(own))}",
            f"digit{value.isdigit()}",
            f"cn{min(len(own), 4)}",
        ]
        told += [f"c|{p}|{one}" for p in parts for one in (f"l {left}", f"r {right}", value)]
        found.append((value, told))
    return found


def _yes_or_no(value: str, parts: Sequence[str], words: Sequence[str]) -> list[str]:
    near = min(sum(any(w.startswith(part[:5]) for w in words) for part in parts), 3)
    said = [*words[:16], *(f"{a} {b}" for a, b in pairwise(words[:7]))]
    told = [f"bool{value}", f"bool{value}{near}", *(f"b|{value}|{w}|{near > 0}" for w in said)]
    return told + [f"b|{value}|{part}|{w}" for part in parts for w in words[:16]]

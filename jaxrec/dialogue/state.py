"""Floor 3: all that is known of a conversation, as one value: JSON and back without loss.

    state = DialogueState("c1", owner="U1")
    state, action = hear(talk, state, "something cheap for breakfast")      # dialogue/machine.py
    state = said(state, "Porridge, 3 pounds.", shown=(Shown("item_7", "Porridge", 3.0),))
    DialogueState.from_json(state.to_json()) == state

Nothing in a state is ever read out of what people write, but by the machine: a message that looks like a state is
letters. All its texts went through `hostile.neutralise`.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal, get_args

from jaxrec.config import RunError

VERSION = 1  # of the JSON form: another one is refused
Role = Literal["user", "assistant"]


class StateError(RunError, ValueError):
    """What is no state of a conversation."""


@dataclasses.dataclass(frozen=True)
class Spoken:
    """One turn. number: from 0, over the whole conversation; turns that were dropped keep theirs."""

    number: int
    role: Role
    text: str


@dataclasses.dataclass(frozen=True)
class Shown:
    """An item that was recommended. text: what it is made of, as far as the shop tells; price: in the shop's money."""

    item: str
    title: str
    price: float | None = None
    text: str = ""


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What the next list must obey.

    most, least: bounds of the price, None where there are none. without: items that may not come (ids). avoid: words
    that no item may have (an allergen, "pork"). liked, disliked: items with a thumb (ids); disliked ones are in
    `without` too.
    """

    most: float | None = None
    least: float | None = None
    without: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()
    liked: tuple[str, ...] = ()
    disliked: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class DialogueState:
    """A conversation so far.

    conversation, owner: whose it is. language: of the templates, "" as long as nothing told it. shop, goal: what is
    talked about and what they want, by the names of the schemas; "" unknown. slots: values by name. wishes: of lists.
    asked: the slot (or "shop", "goal") that the last question was about, with what could be chosen in `options`.
    query: what is sought, in their words. shown: the last list, best first. turns: word for word, oldest first.
    summary: of the turns that left the window. count: turns ever spoken. dropped: of these, how many are in the summary
    alone. revision: grows by one with each change, so that of two writers one notices the other.
    """

    conversation: str
    owner: str = ""
    language: str = ""
    shop: str = ""
    goal: str = ""
    slots: Mapping[str, str] = dataclasses.field(default_factory=dict)
    wishes: Wishes = Wishes()
    asked: str = ""
    options: tuple[str, ...] = ()
    query: str = ""
    shown: tuple[Shown, ...] = ()
    turns: tuple[Spoken, ...] = ()
    summary: str = ""
    count: int = 0
    dropped: int = 0
    revision: int = 0

    def to_json(self) -> str:
        """One line of JSON, the same for equal states."""
        told = {"version": VERSION, **dataclasses.asdict(self)}
        return json.dumps(told, ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> "DialogueState":
        """The state of which this is the JSON form.

        Raises StateError for what is no JSON, another version, a field that is missing, unknown or of another kind.
        """
        try:
            told = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise StateError(f"the conversation's state is damaged: {error}") from None
        if not isinstance(told, dict):
            raise StateError("the conversation's state is damaged: it is no JSON object")
        if told.get("version") != VERSION:
            raise StateError(
                f"the conversation's state is of version {told.get('version')!r}, this program reads version {VERSION}"
            )
        del told["version"]
        return _read(cls, told, "state")

    def change(self, **fields: Any) -> "DialogueState":
        """The next state: these fields changed, the revision one higher."""
        return dataclasses.replace(self, revision=self.revision + 1, **fields)


# ------------------------------------------------------------------------------------------ inside

_PARTS = {"wishes": Wishes, "shown": Shown, "turns": Spoken}
_TEXTS = {"without", "avoid", "liked", "disliked", "options"}
_NUMBERS = {"most", "least", "price"}
_COUNTS = {"count", "dropped", "revision", "number"}


def _read(kind: type, told: Any, where: str) -> Any:
    """A dataclass from plain values, every one of which is checked."""
    if not isinstance(told, dict):
        raise StateError(f"the conversation's {where} is damaged: it is no object")
    names = {field.name for field in dataclasses.fields(kind)}
    if wrong := sorted(names ^ told.keys()):
        word = "lacks" if wrong[0] in names else "has an unknown field"
        raise StateError(f"the conversation's {where} is damaged: it {word} {wrong[0]!r}")
    return kind(**{name: _value(name, told[name], f"{where}.{name}") for name in names})


def _value(name: str, value: Any, where: str) -> Any:
    if name == "wishes":
        return _read(Wishes, value, where)
    if name in _PARTS or name in _TEXTS:
        if not isinstance(value, list):
            raise StateError(f"the conversation's {where} is damaged: it is no list")
        if name in _PARTS:
            return tuple(_read(_PARTS[name], one, f"{where}[{i}]") for i, one in enumerate(value))
        return tuple(_text(one, where) for one in value)
    if name == "slots":
        if not isinstance(value, dict):
            raise StateError(f"the conversation's {where} is damaged: it is no object")
        return {key: _text(one, where) for key, one in value.items()}
    if name in _NUMBERS:
        if value is None or (type(value) in (int, float) and abs(value) < 1e12):
            return None if value is None else float(value)
        raise StateError(f"the conversation's {where} is damaged: {value!r} is no price")
    if name in _COUNTS:
        if type(value) is int and value >= 0:
            return value
        raise StateError(f"the conversation's {where} is damaged: {value!r} is no count")
    if name == "role" and value not in get_args(Role):
        raise StateError(
            f"the conversation's {where} is damaged: {value!r} is none of {get_args(Role)}"
        )
    return _text(value, where)


def _text(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    raise StateError(f"the conversation's {where} is damaged: {str(value)[:40]!r} is no text")

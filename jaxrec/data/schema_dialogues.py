"""Floor 1: what people can want of a service, as a schema: goals, and the slots that they need.

Also the reader of Schema-Guided Dialogue (Rastogi et al. 2020, arXiv:1909.05855), the public set whose services bring
such schemas: turns with the user's intent and the slot values so far for each service that is spoken of.
"""

import dataclasses
import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxrec.config import RunError

NO_GOAL = "NONE"  # a user turn in which no intent is active
ANYTHING = "dontcare"  # the value of a slot for which all is right


class SchemaError(RunError, ValueError):
    """A file of schemas or dialogues that does not read as one."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """Something that may be told. values: all that there are, where it is a choice. ask: the question, by language."""

    name: str
    about: str
    values: tuple[str, ...] = ()
    ask: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def is_choice(self) -> bool:
        """Whether its values are a closed list."""
        return bool(self.values)


@dataclasses.dataclass(frozen=True)
class Goal:
    """Something that people want. needs, may: slots without which it can't be done, and others. does: it changes
    something (a booking), rather than telling it."""

    name: str
    about: str
    needs: tuple[str, ...] = ()
    may: tuple[str, ...] = ()
    does: bool = False


@dataclasses.dataclass(frozen=True)
class Schema:
    """What one business can be asked for."""

    name: str
    about: str
    slots: tuple[Slot, ...]
    goals: tuple[Goal, ...]

    def slot(self, name: str) -> Slot:
        """A slot by its name. Raises SchemaError."""
        for one in self.slots:
            if one.name == name:
                return one
        raise SchemaError(f"{self.name} has no slot {name!r}")


@dataclasses.dataclass(frozen=True)
class Frame:
    """What the user wants of one service after a turn. values: by slot, every wording that counts as right."""

    service: str
    goal: str
    values: Mapping[str, tuple[str, ...]]
    asked: tuple[str, ...]  # slots that the user wants to know


@dataclasses.dataclass(frozen=True)
class SchemaTurn:
    """One turn. frames: of a user's turn, by service; a system's has none. spans: characters that are values."""

    is_user: bool
    text: str
    frames: tuple[Frame, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class SchemaDialogue:
    """One conversation with one or several services."""

    id: str
    services: tuple[str, ...]
    turns: tuple[SchemaTurn, ...]


def read_schemas(path: str | Path) -> dict[str, Schema]:
    """The services of an SGD schema file (.json or .json.gz), by name. Raises SchemaError."""
    told = _parsed(_read(path), path)
    try:
        found = [_service(one) for one in told]
    except (KeyError, TypeError, AttributeError) as error:
        raise SchemaError(f"{path} is no schema file: {error!r}") from None
    return {one.name: one for one in found}


def read_schema_dialogues(path: str | Path, every: int = 1) -> Iterator[SchemaDialogue]:
    """The dialogues of a file with one SGD dialogue a line, in order; of each `every` of them the first.

    Raises SchemaError, which names the line.
    """
    for number, line in enumerate(_read(path).splitlines()):
        if number % every or not line.strip():
            continue
        where = f"{path}, line {number + 1}"
        try:
            yield _dialogue(_parsed(line, where))
        except (KeyError, TypeError, AttributeError) as error:
            raise SchemaError(f"{where}: no SGD dialogue: {error!r}") from None


# ------------------------------------------------------------------------------------------ inside


def _read(path: str | Path) -> str:
    try:
        raw = Path(path).read_bytes()
        return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise SchemaError(f"{path} cannot be read: {error}") from None


def _parsed(text: str, where: str | Path) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise SchemaError(f"{where}: no JSON: {error}") from None


def _service(told: Mapping[str, Any]) -> Schema:
    slots = [
        Slot(
            one["name"],
            one["description"],
            tuple(one["possible_values"]) if one["is_categorical"] else (),
        )
        for one in told["slots"]
    ]
    goals = [
        Goal(
            one["name"],
            one["description"],
            tuple(one["required_slots"]),
            tuple(one["optional_slots"]),
            one["is_transactional"],
        )
        for one in told["intents"]
    ]
    return Schema(told["service_name"], told["description"], tuple(slots), tuple(goals))


def _dialogue(told: Mapping[str, Any]) -> SchemaDialogue:
    turns = []
    for turn in told["turns"]:
        is_user = turn["speaker"] == "USER"
        frames = [
            Frame(
                one["service"],
                one["state"]["active_intent"],
                {name: tuple(said) for name, said in one["state"]["slot_values"].items()},
                tuple(one["state"]["requested_slots"]),
            )
            for one in turn["frames"]
            if is_user
        ]
        spans = {
            (slot["start"], slot["exclusive_end"])
            for one in turn["frames"]
            for slot in one["slots"]
        }
        spans = tuple(sorted(spans))
        turns.append(SchemaTurn(is_user, turn["utterance"], tuple(frames), spans))
    return SchemaDialogue(told["dialogue_id"], tuple(told["services"]), tuple(turns))

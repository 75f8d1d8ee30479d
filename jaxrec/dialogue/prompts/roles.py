"""In whose part the model speaks: support, technician, sales, or one of a file of one's own.

roles.yaml (or .json, .toml; a role is its text, or has parts)
    concierge: You are the concierge of a small hotel. You are warm and brief.
    auditor:
      text: You check invoices. You name every figure that you rely on.
      also: [controller]
"""

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrec.dialogue.prompts.generation import PromptError


@dataclasses.dataclass(frozen=True)
class Role:
    """A part to speak in. text: what the model is told of it. also: further names under which it is found."""

    name: str
    text: str
    also: tuple[str, ...] = ()


SUPPORT = Role(
    "support",
    "You are a customer support specialist. You are friendly and brief, you say what the customer can do next, and you"
    " never invent a fact, a price or a promise.",
    ("customer_support", "support_specialist"),
)
TECHNICIAN = Role(
    "technician",
    "You are a support technician. You find out what is wrong, name the likely cause, and give steps in the order in"
    " which they are to be tried, the safest first. You never ask for a password.",
    ("technical_support", "technical"),
)
SALES = Role(
    "sales",
    "You are a sales adviser. You ask what is needed, suggest what fits, say honestly what does not, and never press.",
    ("sales_rep", "sales_representative"),
)
ROLES = (SUPPORT, TECHNICIAN, SALES)


def find_role(name: str, roles: Sequence[Role] = ROLES) -> Role:
    """The role of a name, upper and lower case alike. Raises PromptError, with the nearest name, for no role."""
    known = {said.casefold(): role for role in roles for said in (role.name, *role.also)}
    found = known.get(name.strip().casefold())
    if found is None:
        close = difflib.get_close_matches(name.casefold(), known, n=1, cutoff=0.5)
        hint = (
            f"did you mean {close[0]!r}?"
            if close
            else f"there are {', '.join(r.name for r in roles)}"
        )
        raise PromptError(f"there is no role {name!r}; {hint}")
    return found


def read_roles(path: str | Path) -> tuple[Role, ...]:
    """The roles of a file, behind the three that are always there; one of the same name takes its place.

    Raises PromptError, with the file's line, for what cannot be read or is no role.
    """
    path = Path(path).expanduser()
    reader = _READERS.get(path.suffix.casefold())
    if reader is None:
        raise PromptError(f"{path}: roles are a .yaml, .json or .toml, not {path.suffix or 'this'}")
    try:
        said = path.read_text("utf-8-sig")
    except OSError as error:
        raise PromptError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise PromptError(f"{path}:{line}: not UTF-8") from None
    rows = reader(said, path)
    if not isinstance(rows, Mapping) or not rows:
        raise PromptError(f"{path}:1: roles are names with their texts, one at least")
    found = tuple(_role(name, row, said, path) for name, row in rows.items())
    names = {role.name.casefold() for role in found}
    return (*(role for role in ROLES if role.name not in names), *found)


# ------------------------------------------------------------------------------------------ inside


def _role(name: Any, row: Any, said: str, path: Path) -> Role:
    where = f"{path}:{_line_of(str(name), said)}"
    if not isinstance(name, str) or not name.strip():
        raise PromptError(f"{where}: the name of a role is a word, not {name!r}")
    parts = {"text": row} if isinstance(row, str) else row
    if not isinstance(parts, Mapping):
        raise PromptError(f"{where}: {name} is a text, or has a field text")
    if unknown := [str(key) for key in parts if key not in ("text", "also")]:
        raise PromptError(f"{where}: {name} has a field {unknown[0]!r}; a role has text and also")
    text, also = parts.get("text"), parts.get("also", ())
    if not isinstance(text, str) or not text.strip():
        raise PromptError(f"{where}: {name} has no text")
    if isinstance(also, str) or not all(isinstance(one, str) for one in also):
        raise PromptError(f"{where}: also, of {name}, is a list of names")
    return Role(name.strip(), " ".join(text.split()), tuple(also))


def _line_of(name: str, said: str) -> int:
    """Where a role is first named at the beginning of a line."""
    for number, line in enumerate(said.splitlines(), 1):
        if line.lstrip(" \t{,['\"").startswith(name):
            return number
    return 1


def _yaml(said: str, path: Path) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Safe, and a name that comes twice is no name."""

    def mapping(loader: Loader, node: yaml.MappingNode) -> dict[Any, Any]:
        keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                line = node.value[i][0].start_mark.line + 1
                raise PromptError(f"{path}:{line}: {key!r} comes twice")
        return yaml.SafeLoader.construct_mapping(loader, node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        return yaml.load(said, Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise PromptError(
            f"{path}:{line}: {getattr(error, 'problem', None) or 'no YAML'}"
        ) from None
    except (TypeError, RecursionError, ValueError) as error:
        raise PromptError(f"{path}:1: {error}") from None


def _json(said: str, path: Path) -> Any:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in found]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise PromptError(f"{path}:{_line_of(name, said)}: {name!r} comes twice")
        return dict(found)

    try:
        return json.loads(said, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        raise PromptError(f"{path}:{error.lineno}: {error.msg}") from None
    except RecursionError:
        raise PromptError(f"{path}:1: nested too deeply") from None


def _toml(said: str, path: Path) -> Any:
    try:
        return tomllib.loads(said)
    except tomllib.TOMLDecodeError as error:
        told = str(error)
        line = told.rpartition("at line ")[2].split(",")[0]
        at = line if line.isdecimal() else max(said.count("\n"), 1)
        raise PromptError(f"{path}:{at}: {told.split(' (at ')[0]}") from None


_READERS = {".yaml": _yaml, ".yml": _yaml, ".json": _json, ".toml": _toml}

"""Floor 1: what a run was made with, and whether a resume goes on with the same: its settings and its data."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jaxrec import config as configs

# Settings that change what is reported, where it lies, and how long it takes, but no step that is made.
_FREE = re.compile(
    r"(out|hosts|mesh|samples|merge|merged|strict|remat|accum|cache|variants)(\.|$).*"
    r"|((.*\.)?loop\.)?(steps|log_every|eval_every|save_every|keep|resume|allow_changes|patience)"
    r"|((.*\.)?loop\.)?(stall|hang|tensorboard|progress)"
    r"|features\.(folder|shard|rows)"
)
_LONGEST = 60  # characters of a value that is shown


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """A run's resolved settings by dotted name, and the hash of its data ("" where that is not known)."""

    settings: Mapping[str, Any]
    data: str = ""

    def changes(self, earlier: Mapping[str, Any], same_frozen: bool) -> list[str]:
        """What matters and is not as in the record of an earlier run (`as_dict`): "name: before -> now", each.

        same_frozen: the frozen weights are the same ones, wherever their folder lies now. Settings that only one of
        the two has come from another version, and are not compared.
        """
        before, same_data = earlier["settings"], self.data and self.data == earlier["data"]
        alike = {"data"} if same_data else set()
        alike |= {"base", "backbone", "model", "lfe"} if same_frozen else set()
        found = [
            f"{name}: {_short(before[name])} -> {_short(value)}"
            for name, value in self.settings.items()
            if name in before and value != before[name] and name not in alike
            and not _FREE.fullmatch(name)
        ]  # fmt: skip
        if self.data and earlier["data"] and not same_data:
            found.append(f"the data's contents: {earlier['data']} -> {self.data}")
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"settings": dict(self.settings), "data": self.data}


def record_of(config: Any, data: str = "") -> RunRecord:
    """The record of a run with this resolved config, a dataclass."""
    return RunRecord(dict(_flat(configs.to_dict(config))), data)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _short(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= _LONGEST else f"{said[: _LONGEST // 2]}...{said[-_LONGEST // 2 :]}"

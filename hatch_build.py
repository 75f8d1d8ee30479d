"""What a wheel holds: everything under `jaxrec`, so that no package called `train` or `eval` lands in site-packages.

A checkout has the scripts and experiment files beside the package. An editable install leaves them there.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOMS = ("train", "eval", "configs")
LEFT_OUT = ("configs/bench",)  # experiments of `bench`, which only a checkout has


class Wheel(BuildHookInterface):
    """Moves the rooms of scripts into the package's namespace."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds each file of the rooms as jaxrec/ROOM/..., unless this is an editable install."""
        if version == "editable":
            return
        root = Path(self.root)
        for path in sorted(path for room in ROOMS for path in (root / room).rglob("*")):
            name = path.relative_to(root).as_posix()
            kept = path.is_file() and "__pycache__" not in path.parts
            if kept and not name.startswith(tuple(f"{folder}/" for folder in LEFT_OUT)):
                build_data["force_include"][str(path)] = f"jaxrec/{name}"

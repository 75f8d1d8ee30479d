"""Floor 3: the tensors of a checkpoint in safetensors files, read a slice at a time."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.hub.config import ModelError, ModelMissing
from jaxrec.hub.names import spellings, transposed


class Tensors:
    """The tensors of a checkpoint, in one safetensors file or several, read a slice at a time."""

    def __init__(self, folder: Path, family: str):
        self.folder, self.family, self._open = folder, family, {}
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            self.file_of = json.loads(index.read_text())["weight_map"]
        elif (folder / "model.safetensors").is_file():
            self.file_of = dict.fromkeys(
                self._file("model.safetensors").keys(), "model.safetensors"
            )
        else:
            raise ModelMissing(
                f"{folder} has neither model.safetensors nor model.safetensors.index.json; weights in other"
                " formats must be saved as safetensors first"
            )

    def __enter__(self) -> "Tensors":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Lets the files go, and with them the memory that their pages take; the next read opens them again."""
        self._open.clear()

    def check(self, path: str, names: list[str], shape: tuple[int, ...]) -> None:
        """Raises ModelError when a tensor of a parameter is missing or has another shape than the config says."""
        if path.startswith("stack_"):
            shape = shape[1:]
        shape = shape[::-1] if transposed(path) else shape
        for name in names:
            found = tuple(self._find(name).get_shape())
            if found != tuple(shape):
                raise ModelError(
                    f"the weights don't fit config.json: tensor {name} has shape {found}, the config asks for"
                    f" {tuple(shape)} ({path})"
                )

    def slice(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """A part of one tensor."""
        return self._find(name)[index]

    def _find(self, name: str) -> Any:
        for spelling in spellings(name, self.family):
            if spelling in self.file_of:
                return self._file(self.file_of[spelling]).get_slice(spelling)
        raise ModelError(
            f"the checkpoint in {self.folder} lacks the tensor {name}; it has {len(self.file_of)} tensors,"
            f" the first is {min(self.file_of, default='none')}"
        )

    def _file(self, name: str) -> Any:
        from safetensors import SafetensorError, safe_open

        if name not in self._open:
            if not (self.folder / name).is_file():
                raise ModelMissing(f"{self.folder / name} is missing, though the index names it")
            try:
                self._open[name] = safe_open(self.folder / name, framework="numpy")
            except SafetensorError as error:
                raise ModelError(f"{self.folder / name} is damaged: {error}") from error
        return self._open[name]

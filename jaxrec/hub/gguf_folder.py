"""Floor 3: a GGUF file as a model's folder: its small files unpacked into the cache, its weights read where they lie.

    FILE.gguf --> ~/.cache/jaxrec/gguf/FILE-.../{config.json, tokenizer.json, ..., gguf.json}

`gguf.json` says where the file is and where its tensors lie in it. The folder is made once for each file (by its path,
size and time), in a moment, and can be deleted at any time.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.files import content_hash, write_json
from jaxrec.hub.config import ModelError, from_hf
from jaxrec.hub.gguf_config import config_of
from jaxrec.hub.gguf_file import GgufHead, Place, check_kind, read_head, read_rows
from jaxrec.hub.gguf_names import ARCHITECTURES, FACTORS, FUSED, OFFSET, PERMUTED
from jaxrec.hub.gguf_vocabulary import write_vocabulary
from jaxrec.hub.names import NAMES
from jaxrec.hub.published import cache_folder
from jaxrec.hub.tensors import Tensors
from jaxrec.nn.decoder import DecoderConfig

POINTER = "gguf.json"
_LAYOUT = "1"  # of the unpacked folder: another one is unpacked anew
_PLAIN = {0: "float32", 1: "float16", 30: "bfloat16"}


def is_unpacked(folder: Path) -> bool:
    """Whether a model's folder stands for a GGUF file."""
    return (folder / POINTER).is_file()


def unpack(path: str | Path) -> Path:
    """The folder that stands for a GGUF file, made if it is not there.

    Raises what `read_head`, `config_of` and `write_vocabulary` raise, before anything is written.
    """
    path = Path(path).expanduser().resolve()
    stat = path.stat()
    key = content_hash(_LAYOUT, str(path), f" {stat.st_size} {stat.st_mtime_ns}", digits=12)
    folder = cache_folder() / "gguf" / f"{path.stem}-{key}"
    if is_unpacked(folder):
        return folder
    head = read_head(path)
    config = config_of(head)
    from_hf(config)  # raises for what no architecture here has
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        write_vocabulary(head, fresh)
        write_json(fresh / "config.json", config)
        write_json(fresh / POINTER, _pointer(head, stat), indent=None)
        try:
            fresh.rename(folder)
        except OSError:  # another process was first
            if not is_unpacked(folder):
                raise
        _forget_older(folder, path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _pointer(head: GgufHead, stat: os.stat_result) -> dict[str, Any]:
    places = {
        name: [place.shape, place.kind, place.start, place.nbytes]
        for name, place in head.tensors.items()
    }
    return {
        "file": str(head.path),
        "size": stat.st_size,
        "time": stat.st_mtime_ns,
        "tensors": places,
    }


def _forget_older(folder: Path, path: Path) -> None:
    """Removes what was unpacked of a file that has other contents by now."""
    for pointer in folder.parent.glob(f"[!.]*/{POINTER}"):
        same = json.loads(pointer.read_text("utf-8"))["file"] == str(path)
        if same and pointer.parent != folder:
            shutil.rmtree(pointer.parent, ignore_errors=True)


def file_of(folder: Path) -> GgufHead:
    """The file that an unpacked folder stands for, with its tensors' places (and no metadata).

    Raises ModelError where the file is gone or has changed.
    """
    pointer = json.loads((folder / POINTER).read_text("utf-8"))
    path = Path(pointer["file"])
    if (
        not path.is_file()
        or path.stat().st_size != pointer["size"]
        or path.stat().st_mtime_ns != pointer["time"]
    ):
        raise ModelError(
            f"{path} is gone or has changed since {folder} was made of it: name the file itself"
        )
    places = {
        name: Place(tuple(shape), *rest) for name, (shape, *rest) in pointer["tensors"].items()
    }
    return GgufHead(path, {}, places)


def places(folder: Path) -> Iterator[tuple[str, str, Path, int, int]]:
    """(name, type and shape, file, first byte, byte behind the last) of each tensor of an unpacked folder."""
    head = file_of(folder)
    for name, place in head.tensors.items():
        yield (
            name,
            f"{place.kind} {list(place.shape)}",
            head.path,
            place.start,
            place.start + place.nbytes,
        )


class GgufTensors(Tensors):
    """The tensors of a GGUF file under Hugging Face's names and in its order of rows, made floats a slice at a time.

    Matrices of F16 or BF16 keep that type if all are of it; of others float32 is made.
    """

    def __init__(self, folder: Path, family: str, cfg: DecoderConfig):
        """folder: an unpacked one. cfg: of its model.

        Raises ModelError for a file with tensors that this architecture has no place for.
        """
        self.folder, self.family, self.cfg = folder, family, cfg
        self.head = file_of(folder)
        _, ours = ARCHITECTURES[family]
        # HF's name -> (our path, llama.cpp's name); q, k and v may lie in one tensor
        self.names = {
            NAMES[family][path].format(n=n): (path, theirs.format(n=n))
            for path, theirs in ours.items()
            if path in NAMES[family]
            for n in (range(cfg.layers) if "{n}" in theirs else (0,))
        }
        fused = {
            f"{FUSED.format(n=n)}.{part}" for n in range(cfg.layers) for part in ("weight", "bias")
        }
        known = {theirs for _, theirs in self.names.values()} | fused | {FACTORS}
        other = sorted(set(self.head.tensors) - known)
        if other:
            raise ModelError(
                f"{self.head.path} has {len(other)} tensors that a {family} model has no place for, such as {other[0]}"
            )
        kinds = {place.kind for place in self.head.tensors.values() if len(place.shape) > 1}
        (kind,) = kinds if len(kinds) == 1 else (0,)
        self.dtype = _PLAIN.get(kind, "float32")

    def close(self) -> None:
        """Nothing is held open between two slices."""

    def _find(self, name: str) -> "_Slices":
        path, theirs = self.names[name]
        place, rows = self.head.tensors.get(theirs), None
        if place is None and (part := re.search(r"attn/([qkv])/", path)):
            fused = re.sub(r"attn_[qkv]\b", "attn_qkv", theirs)
            place, rows = self.head.tensors.get(fused), self._part(part[1])
        if place is None:
            raise ModelError(f"{self.head.path} lacks the tensor {theirs} ({name})")
        check_kind(self.head.path, theirs, place.kind)
        return _Slices(self, path, place, rows)

    def _part(self, part: str) -> slice:
        """The rows of q, k or v in the tensor that holds all three."""
        q, kv = self.cfg.heads * self.cfg.head_dim, self.cfg.groups * self.cfg.head_dim
        starts = {"q": (0, q), "k": (q, q + kv), "v": (q + kv, q + 2 * kv)}
        return slice(*starts[part])


class _Slices:
    """One tensor as safetensors gives it: its shape, and slices of it."""

    def __init__(self, tensors: GgufTensors, path: str, place: Place, rows: slice | None):
        self.tensors, self.path, self.place, self.rows = tensors, path, place, rows

    def get_shape(self) -> tuple[int, ...]:
        shape = self.place.shape
        return shape if self.rows is None else (self.rows.stop - self.rows.start, *shape[1:])

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        file, family = self.tensors.head.path, self.tensors.family
        permuted = self.path in PERMUTED.get(family, ())
        if self.rows is not None or permuted or len(self.place.shape) == 1:
            # Rows of another order, or of a part: all of them are read, and put right before they are chosen from.
            x = read_rows(file, self.place, self.rows or slice(None))
            x = x[self.rows] if self.rows is not None and x.ndim == 1 else x
            x = self._in_halves(x) if permuted else x
            x = x[index]
        else:
            x = read_rows(file, self.place, index[0])[(slice(None), *index[1:])]
        if x.ndim > 1:
            return x.astype(self.tensors.dtype, copy=False)
        return x - np.float32(OFFSET.get(family, 0.0)) if self.path.endswith("scale") else x

    def _in_halves(self, x: np.ndarray) -> np.ndarray:
        """Rows of q or k from llama.cpp's order, rotary pairs as neighbours, to halves of a head."""
        cfg = self.tensors.cfg
        heads = cfg.heads if "/q/" in self.path else cfg.groups
        return x.reshape(heads, -1, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)

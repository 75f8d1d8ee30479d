"""Floor 3: a GGUF file opened: its metadata, where its tensors lie, and their rows as floats.

The head (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) is read here and not by the package `gguf`, whose
reader takes a quarter of a minute for a vocabulary of Gemma's size and says in no clear line what is wrong with a file;
what the bits of a block mean is that package's affair (`gguf.quants`).
"""

import dataclasses
import mmap
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxrec.hub.config import ModelError, ModelMissing

_VERSIONS = (2, 3)
_ALIGNMENT = 32  # of tensors where the file names no other
_CHUNK = 1 << 22  # numbers that are made floats at a time
_STRING, _ARRAY = 8, 9
# value type of the metadata -> struct's letter
_NUMBERS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a tensor lies: its shape (rows first), ggml's number of its type, its first byte and how many there are."""

    shape: tuple[int, ...]
    kind: int
    start: int
    nbytes: int


@dataclasses.dataclass(frozen=True)
class GgufHead:
    """What stands before the tensors of a file: metadata by key (arrays as lists), and each tensor's place."""

    path: Path
    meta: dict[str, Any]
    tensors: dict[str, Place]


def gguf_package() -> Any:
    """The package `gguf`. Raises ModelError, with the extra that brings it, where it is not installed."""
    try:
        import gguf
    except ImportError as error:
        raise ModelError("the package gguf is not installed: pip install 'jaxrec[gguf]'") from error
    return gguf


def read_head(path: str | Path) -> GgufHead:
    """The head of a GGUF file.

    Raises ModelMissing where there is no such file, ModelError in one line for what is no GGUF file, is of another
    version or byte order, is cut short or damaged, is one part of several, or holds no model.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelMissing(f"{path} is missing")
    with path.open("rb") as file:
        first = file.read(8)
        if first[:4] != b"GGUF" or len(first) < 8:
            raise ModelError(f"{path} is no GGUF file: it does not begin with GGUF")
        _check_version(path, int.from_bytes(first[4:], "little"))
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
            try:
                meta, tensors = _Reader(path, held).head()
            except (struct.error, IndexError, OverflowError):
                raise ModelError(f"{path} is cut short: it ends within its head") from None
    if meta.get("split.count", 0) > 1:
        raise ModelError(
            f"{path} is one of {meta['split.count']} parts of a model: join them by llama-gguf-split --merge"
        )
    if meta.get("general.type", "model") != "model":
        raise ModelError(f"{path} holds no model but of type {meta['general.type']!r}")
    size = path.stat().st_size
    for name, place in tensors.items():
        if place.start + place.nbytes > size:
            raise ModelError(
                f"{path} is cut short: the tensor {name} ends at byte {place.start + place.nbytes:,}, the file at"
                f" {size:,}"
            )
    return GgufHead(path, meta, tensors)


def _check_version(path: Path, version: int) -> None:
    if version & 0xFFFF == 0 and version:
        raise ModelError(f"{path} is a GGUF file of the other byte order (big-endian)")
    if version not in _VERSIONS:
        age = "newer" if version > max(_VERSIONS) else "older"
        raise ModelError(
            f"{path} is of GGUF version {version}, {age} than those that are read here:"
            f" {' and '.join(map(str, _VERSIONS))}"
        )


class _Reader:
    """Goes through the bytes of a head, from its counts on."""

    def __init__(self, path: Path, held: mmap.mmap):
        self.path, self.held, self.at = path, held, 8

    def head(self) -> tuple[dict[str, Any], dict[str, Place]]:
        n_tensors, n_keys = self.number("Q"), self.number("Q")
        meta = {}
        for _ in range(n_keys):
            key = self.string()
            meta[key] = self.value(self.number("I"))
        infos = []
        for _ in range(n_tensors):
            name, rank = self.string(), self.number("I")
            if rank > 4:
                raise ModelError(f"{self.path} is damaged: the tensor {name!r} has {rank} axes")
            shape = tuple(self.number("Q") for _ in range(rank))[::-1]
            infos.append((name, shape, self.number("I"), self.number("Q")))
        step = meta.get("general.alignment", _ALIGNMENT)
        begin = -(-self.at // step) * step
        return meta, {
            name: Place(shape, kind, begin + offset, self.size(name, shape, kind))
            for name, shape, kind, offset in infos
        }

    def size(self, name: str, shape: tuple[int, ...], kind: int) -> int:
        gguf = gguf_package()
        if kind not in iter(gguf.GGMLQuantizationType):
            raise ModelError(f"{self.path}: the tensor {name} is of type {kind}, which is unknown")
        block, nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
        if shape and shape[-1] % block:
            raise ModelError(
                f"{self.path} is damaged: rows of {shape[-1]} in {name}, whose blocks are of {block}"
            )
        count = 1
        for axis in shape:  # of Python's integers: a damaged file may say anything
            count *= axis
        return count // block * nbytes

    def number(self, letter: str) -> Any:
        (x,) = struct.unpack_from(f"<{letter}", self.held, self.at)
        self.at += struct.calcsize(f"<{letter}")
        return x

    def string(self) -> str:
        length = self.number("Q")
        if self.at + length > len(self.held):
            raise IndexError
        text = self.held[self.at : self.at + length]
        self.at += length
        return text.decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind != _ARRAY:
            raise ModelError(f"{self.path} is damaged: a value of type {kind}, which is unknown")
        inner, count = self.number("I"), self.number("Q")
        if count > len(self.held):
            raise IndexError
        if inner in _NUMBERS:
            values = struct.unpack_from(f"<{count}{_NUMBERS[inner]}", self.held, self.at)
            self.at += struct.calcsize(f"<{count}{_NUMBERS[inner]}")
            return list(values)
        return [self.value(inner) for _ in range(count)]


def check_kind(path: Path, name: str, kind: int) -> None:
    """Raises ModelError for a type of tensor whose blocks the package cannot make floats of."""
    gguf = gguf_package()
    known = gguf.GGMLQuantizationType(kind)
    plain = known.name in ("F32", "F16", "BF16")
    if not plain and known not in gguf.quants._type_traits:
        raise ModelError(f"{path}: the tensor {name} is of type {known.name}, which cannot be read")


def read_rows(path: Path, place: Place, rows: slice = slice(None)) -> np.ndarray:
    """The rows of a tensor, as numbers: F32, F16 and BF16 as they are, everything else as float32.

    Only these rows are read, and a few million numbers at a time are made floats, so that little is in memory beside
    the result. A tensor of one axis is read whole.

    Args:
      path: of the file.
      place: of the tensor.
      rows: along its first axis, one after the other.
    """
    gguf = gguf_package()
    kind = gguf.GGMLQuantizationType(place.kind)
    count = place.shape[0] if len(place.shape) > 1 else 1
    first, last, _ = rows.indices(count) if len(place.shape) > 1 else (0, 1, 1)
    inner = place.shape[1:] if len(place.shape) > 1 else place.shape
    width, row_bytes = int(np.prod(inner)), place.nbytes // max(count, 1)
    whole = (max(last - first, 0), *inner) if len(place.shape) > 1 else inner
    plain = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}.get(kind.name)
    with path.open("rb") as file:
        file.seek(place.start + first * row_bytes)
        if plain is not None:
            return np.fromfile(file, plain, int(np.prod(whole))).reshape(whole)
        out = np.empty((max(last - first, 0), width), np.float32)
        step = max(_CHUNK // max(width, 1), 1)
        for at in range(0, len(out), step):
            n = min(step, len(out) - at)
            raw = np.fromfile(file, np.uint8, n * row_bytes).reshape(n, row_bytes)
            out[at : at + n] = gguf.quants.dequantize(raw, kind).reshape(n, width)
    return out.reshape(whole)

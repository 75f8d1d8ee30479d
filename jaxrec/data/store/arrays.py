"""The arrays of a store: zarr3, a whole array one file, cut inside into small chunks that are read by themselves.

A chunk is compressed (blosc: bytes of like rank together, then zstd) and carries a CRC-32C, and so does the index of
the file, so that what was cut short or changed is refused and never trained on. zarr reads what is not there as its
fill value; here that is a number that is never written, and meeting it is an error.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorstore as ts

from jaxrec.data.store.place import Place, StoreError, context, reason_of
from jaxrec.files import content_hash

CHUNK_BYTES = 16 << 10  # of numbers, before compression: a random row costs that much reading


def missing(kind: np.dtype) -> Any:
    """The number that stands for "never written" in an array of this type."""
    return np.iinfo(kind).min if kind.kind == "i" else -np.inf


def chunk_rows(shape: Sequence[int], kind: np.dtype) -> int:
    """How many of the first axis one chunk holds."""
    row = int(np.prod(shape[1:], dtype=np.int64)) * kind.itemsize
    return max(CHUNK_BYTES // max(row, 1), 1)


def spec(place: Place, name: str, shape: Sequence[int], kind: np.dtype) -> dict[str, Any]:
    """tensorstore's description of one array, whole: opening it by this reads nothing.

    place: of the store. name: of the array in it. shape: its sizes. kind: of its numbers.
    """
    chunk = [chunk_rows(shape, kind), *shape[1:]]
    whole = [-(-shape[0] // chunk[0]) * chunk[0], *shape[1:]]
    little, check = {"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}
    press = {"cname": "zstd", "clevel": 3, "shuffle": "shuffle", "typesize": kind.itemsize}
    inner = [little, {"name": "blosc", "configuration": press}, check]
    return {
        "driver": "zarr3",
        "kvstore": place.spec(f"{name}/"),
        "metadata": {
            "shape": list(shape),
            "data_type": kind.name,
            "fill_value": int(missing(kind)) if kind.kind == "i" else "-Infinity",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": whole}},
            "codecs": [
                {
                    "name": "sharding_indexed",
                    "configuration": {
                        "chunk_shape": chunk,
                        "codecs": inner,
                        "index_codecs": [little, check],
                    },
                }
            ],
        },
    }


def write(place: Place, name: str, array: np.ndarray) -> dict[str, Any]:
    """Writes a whole array and gives what the manifest says of it: shape, type, SHA-256 of its numbers.

    Raises StoreError where the place refuses it, and where a number is the one that stands for nothing.
    """
    array = np.ascontiguousarray(array)
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if len(array) and (array == missing(array.dtype)).any():
        raise StoreError(f"{name}: {missing(array.dtype)} cannot be stored, it stands for nothing")
    if len(array):
        try:
            how = spec(place, name, array.shape, array.dtype)
            made = ts.open(how, create=True, delete_existing=True, context=context()).result()
            made.write(array).result()
        except (ValueError, OSError) as error:
            raise StoreError(f"{place.where}: cannot write {name}: {reason_of(error)}") from error
    about = {"shape": list(array.shape), "dtype": array.dtype.name}
    return about | {"sha256": content_hash(array)}


class StoredArray:
    """One array of a store, open to be read by places of its first axis.

    place: of the store. name: of the array in it. shape, kind: as its record has them.
    """

    def __init__(self, place: Place, name: str, shape: Sequence[int], kind: str):
        self.place, self.name, self.kind = place, name, np.dtype(kind)
        self.shape = tuple(shape)
        self._array = None
        if shape[0]:
            # What the metadata say is known, so opening reads nothing: a store may have thousands of arrays.
            how = spec(place, name, shape, self.kind)
            self._array = ts.open(how, open=True, assume_metadata=True, context=context()).result()

    def ask(self, index: Any) -> Any:
        """Begins to read places (a slice, or an array of integers); `answer` waits for them."""
        return None if self._array is None else self._array[index].read()

    def answer(self, asked: Any) -> np.ndarray:
        """What `ask` asked for. Raises StoreError for what is missing, cut short or changed."""
        if asked is None:
            return np.zeros((0, *self.shape[1:]), self.kind)
        try:
            found = asked.result()
        except (ValueError, OSError) as error:
            text = reason_of(error)
            damaged = any(mark in text for mark in ("DATA_LOSS", "Digest", "Invalid", "corrupt"))
            what = "damaged or cut short" if damaged else text
            raise StoreError(
                f"{self.place.where}: {self.name} is {what}"
                + ("; make the store again, or fetch that file once more" if damaged else "")
            ) from error
        if found.size and (found == missing(self.kind)).any():
            raise StoreError(
                f"{self.place.where}: {self.name} is not all there: a file of it is missing"
            )
        return found

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.answer(self.ask(index))

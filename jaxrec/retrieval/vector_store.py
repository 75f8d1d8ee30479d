"""Floor 2: the whole vectors of an index, in memory or as a memory-mapped file, read by slot (row number).

A store is a list of pieces. The first one may be a file (mapped read-only: only the pages that are read take memory),
what is added later lies in memory until the index is saved.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from jaxrec.retrieval.top_k import SearchError

PIECE_ROWS = 65_536
_HALF_MOST = 65_504.0


class VectorStore:
    """Rows of width `dim` in float16 or float32; slots are counted from 0 in the order of `append`.

    rows: how many are expected, so that one piece takes them all. path: write them to this file instead of memory;
    then `finish` maps it.
    dtype: "float32" or "float16".
    """

    def __init__(self, dim: int, dtype: str, *, rows: int = 0, path: str | Path | None = None):
        self.dim, self.dtype = dim, np.dtype(dtype)
        self._pieces: list[np.ndarray] = []  # with room at the end of the last one
        self._used: list[int] = []
        self._expected = rows
        self._path = Path(path) if path is not None else None
        self._file = open(self._path, "wb") if self._path is not None else None
        self._written = 0

    @classmethod
    def map_file(
        cls, path: str | Path, dim: int, dtype: str, rows: int, mmap: bool = True
    ) -> "VectorStore":
        """The store that lies in a file of `rows` rows, mapped, or read into memory.

        path: the file. dim: D. dtype: "float32" or "float16". mmap: rows are read from the disk where they are needed.
        """
        store = cls(dim, dtype)
        shape = (rows, dim)
        if rows and mmap:
            piece = np.memmap(path, dtype=dtype, mode="r", shape=shape)
        else:
            piece = np.fromfile(path, dtype=dtype).reshape(shape)
        store._pieces, store._used = [piece], [rows]
        return store

    def __len__(self) -> int:
        return sum(self._used) + self._written

    @property
    def nbytes(self) -> int:
        """Bytes of all rows, wherever they lie."""
        return len(self) * self.dim * self.dtype.itemsize

    def append(self, block_ID: Float[np.ndarray, "I D"]) -> None:
        """Adds rows. Raises SearchError where float16 cannot hold a number."""
        if self.dtype == np.float16 and block_ID.size and np.abs(block_ID).max() > _HALF_MOST:
            raise SearchError("a number above 65,504 does not fit float16; take store float32")
        if self._file is not None:
            self._file.write(np.ascontiguousarray(block_ID, self.dtype).tobytes())
            self._written += len(block_ID)
            return
        done = 0
        while done < len(block_ID):
            if not self._pieces or self._used[-1] == len(self._pieces[-1]):
                room = max(self._expected, 1) if not self._pieces else PIECE_ROWS
                # Pages of an empty array take no memory until they are written to.
                self._pieces.append(np.empty((max(room, PIECE_ROWS), self.dim), self.dtype))
                self._used.append(0)
            at = self._used[-1]
            count = min(len(self._pieces[-1]) - at, len(block_ID) - done)
            self._pieces[-1][at : at + count] = block_ID[done : done + count]
            self._used[-1] += count
            done += count

    def finish(self) -> None:
        """Ends writing to the file and maps it."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        rows, self._written = self._written, 0
        done = VectorStore.map_file(self._path, self.dim, self.dtype.name, rows)
        self._pieces, self._used = done._pieces, done._used

    def close(self) -> None:
        """Gives up writing, where `finish` was not reached."""
        if self._file is not None:
            self._file.close()

    def pieces(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first slot, rows in their own type) of each piece, not copied."""
        start = 0
        for piece, used in zip(self._pieces, self._used, strict=True):
            if used:
                yield start, piece[:used]
            start += used

    def blocks(self, size: int = 16_384) -> Iterator[tuple[int, Float[np.ndarray, "I D"]]]:
        """(first slot, float32 rows) in blocks of at most `size`."""
        for start, piece in self.pieces():
            for at in range(0, len(piece), size):
                yield start + at, np.asarray(piece[at : at + size], np.float32)

    def rows(self, slots: Int[np.ndarray, " J"]) -> Float[np.ndarray, "J D"]:
        """float32 rows of some slots."""
        pieces = list(self.pieces())
        if len(pieces) == 1:
            return pieces[0][1].take(slots, axis=0).astype(np.float32, copy=False)
        out_JD = np.empty((len(slots), self.dim), np.float32)
        starts = np.asarray([start for start, _ in pieces])
        piece_J = np.searchsorted(starts, slots, side="right") - 1
        for i in np.unique(piece_J):
            at = piece_J == i
            out_JD[at] = pieces[i][1][slots[at] - starts[i]]
        return out_JD

    def write(self, path: str | Path) -> None:
        """Writes all rows to a file."""
        with open(path, "wb") as file:
            for _, piece in self.pieces():
                for at in range(0, len(piece), PIECE_ROWS):
                    file.write(np.ascontiguousarray(piece[at : at + PIECE_ROWS]).tobytes())

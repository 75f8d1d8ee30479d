"""Floor 2: the vectors of a whole catalogue's texts in a tensorstore, made block by block, resumable after a kill.

    FOLDER/catalog.json   encoder, width, type, rows of a block
    FOLDER/vectors/       zarr3 array [rows, width], one chunk a block
    FOLDER/blocks.jsonl   a line for each block that is wholly written: its number, rows, hash of its texts
    FOLDER/complete.json  the number of rows, when all texts are done

A run that finds such a folder checks encoder and texts, and goes on with the first block that has no line.
"""

import dataclasses
import itertools
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from jaxrec import files
from jaxrec.cluster import map_shards
from jaxrec.retrieval.top_k import SearchError

_HEAD, _BLOCKS, _COMPLETE = "catalog.json", "blocks.jsonl", "complete.json"
_VERSION = 1
Embed = Callable[[Sequence[str]], Float[np.ndarray, "B D"]]


@dataclasses.dataclass(frozen=True)
class CatalogVectors:
    """Vectors on disk: row i belongs to text i. Reads what is asked for."""

    folder: Path
    encoder: str
    rows: int
    dim: int
    dtype: str
    array: Any  # a tensorstore

    def __len__(self) -> int:
        return self.rows

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows start..stop in the type they are stored in."""
        stop = self.rows if stop is None else min(stop, self.rows)
        return np.asarray(self.array[start:stop].read().result())

    def blocks(self, size: int = 16_384) -> Iterator[Float[np.ndarray, "I D"]]:
        """All rows, `size` at a time, for `Index.build`; none at all gives one block of shape (0, D)."""
        for at in range(0, max(self.rows, 1), size):
            yield self.read(at, at + size)


def embed_catalog(
    texts: Iterable[str],
    embed: Embed | None,
    folder: str | Path,
    *,
    encoder: str,
    dim: int,
    dtype: str = "float16",
    block: int = 4096,
    progress: bool = False,
    address: str = "",
    load: Callable[[], Embed] | None = None,
) -> CatalogVectors:
    """Embeds all texts (a sequence, or an iterator that gives the same texts again after a kill) into `folder`.

    embed gets the texts of a block and may order them by length as it likes. Further texts at the end of a finished
    catalogue are added. A block counts as done when its vectors are on the disk.

    encoder: its name, kept beside the vectors. dim: D. dtype: of the stored numbers. block: texts at a time. progress:
    a bar on stderr. address: of a cluster whose workers embed a block each (`jaxrec.cluster`), with the same vectors;
    this process alone writes. load: what a worker makes `embed` by, once, which may then be None.

    Raises SearchError for a folder of another encoder, width, type or block, for texts that differ from those embedded
    before, fewer of them, and for an encoder that gives another shape or numbers that are not finite.
    """
    if dtype not in ("float16", "float32") or block < 1 or dim < 1:
        raise SearchError(f"vectors of {dtype}, width {dim}, in blocks of {block}: not possible")
    folder = Path(folder).absolute()
    _claim(folder, {"encoder": encoder, "dim": dim, "dtype": dtype, "block": block})
    done = _done(folder)
    array = _open(folder, dim, dtype, block)
    known = sum(1 for _ in done)
    total = len(texts) if isinstance(texts, Sized) else None
    shelf = _Shelf(folder, texts, block, done)
    begin = (lambda: embed) if embed is not None and not address else load
    if begin is None:
        raise SearchError("workers of a cluster load their encoder themselves: say how with `load`")
    with (
        open(folder / _BLOCKS, "a") as lines,
        tqdm(desc=encoder, total=total, unit="text", disable=not progress) as bar,
    ):
        sent: deque[_Piece] = deque()  # what `pieces` gave and has no vectors yet
        made = map_shards(
            _embedded,
            shelf.pieces(sent),
            address=address,
            setup=begin,
            accelerator=True,
            name=_called,
        )
        for vectors_BD in made:
            piece = sent.popleft()
            # A catalogue that grows is not complete until its new texts are done.
            (folder / _COMPLETE).unlink(missing_ok=True)
            vectors_BD = _checked(vectors_BD, piece, dim, dtype)
            array = array.resize(exclusive_max=[max(piece.stop, array.shape[0]), dim]).result()
            array[piece.start : piece.stop].write(vectors_BD).result()
            # The line comes after the vectors it speaks of and is forced onto the disk: a kill between the two
            # costs one block, and never leaves a line without its vectors.
            lines.write(json.dumps(piece.mark) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
            bar.update(piece.stop - bar.n)
        bar.update(shelf.rows - bar.n)
    if known > shelf.blocks:
        raise SearchError(
            f"{folder} holds more blocks than there are texts ({shelf.rows}); take another folder"
        )
    files.write_json(folder / _COMPLETE, {"rows": shelf.rows}, None)
    return open_vectors(folder, encoder=encoder)


def open_vectors(folder: str | Path, *, encoder: str | None = None) -> CatalogVectors:
    """The finished vectors of a folder. Raises SearchError if they are not finished, or of another encoder."""
    folder = Path(folder).absolute()
    head = _read(folder / _HEAD)
    if encoder is not None and head["encoder"] != encoder:
        raise SearchError(f"{folder} holds vectors of {head['encoder']!r}, not of {encoder!r}")
    if not (folder / _COMPLETE).is_file():
        raise SearchError(f"{folder} is not finished; run embed_catalog again, it goes on")
    rows = _read(folder / _COMPLETE)["rows"]
    array = _open(folder, head["dim"], head["dtype"], head["block"])
    if array.shape[0] < rows:
        raise SearchError(f"{folder} holds {array.shape[0]} rows instead of {rows}; embed it again")
    return CatalogVectors(folder, head["encoder"], rows, head["dim"], head["dtype"], array)


# ------------------------------------------------------------------------------------------ inside


def _cut(texts: Iterable[str], block: int) -> Iterator[list[str]]:
    stream = iter(texts)
    while piece := list(itertools.islice(stream, block)):
        yield piece


class _Piece(NamedTuple):
    """Texts of one block that have no vectors yet: rows start..stop; `mark`: the block's line once they have."""

    texts: list[str]
    start: int
    stop: int
    mark: dict[str, Any]


class _Shelf:
    """The texts as they come, and how many there were so far."""

    def __init__(
        self, folder: Path, texts: Iterable[str], block: int, done: dict[int, dict[str, Any]]
    ):
        self.folder, self.texts, self.block, self.done = folder, texts, block, done
        self.rows = self.blocks = 0

    def pieces(self, sent: "deque[_Piece]") -> Iterator[list[str]]:
        """The texts to embed, block by block; what they are is put into `sent`."""
        for number, whole in enumerate(_cut(self.texts, self.block)):
            mark, first = self.done.get(number, {"rows": 0}), self.rows
            kept = mark["rows"]
            if kept and (kept > len(whole) or mark["texts"] != _hash(whole[:kept])):
                raise SearchError(
                    f"{self.folder}: the texts of block {number} are not those that were embedded before; "
                    "take another folder"
                )
            self.rows, self.blocks = first + len(whole), number + 1
            if kept < len(whole):
                line = {"block": number, "rows": len(whole), "texts": _hash(whole)}
                sent.append(_Piece(whole[kept:], first + kept, self.rows, line))
                yield whole[kept:]


def _called(number: int, texts: list[str]) -> str:
    return f"{len(texts)} texts from {texts[0][:40]!r} on"


def _embedded(embed: Embed, texts: list[str]) -> np.ndarray:
    return np.asarray(embed(texts))


def _checked(vectors_BD: np.ndarray, piece: _Piece, dim: int, dtype: str) -> np.ndarray:
    if vectors_BD.shape != (len(piece.texts), dim):
        raise SearchError(
            f"the encoder gave {vectors_BD.shape} for {len(piece.texts)} texts; expected width {dim}"
        )
    with np.errstate(over="ignore"):  # said below
        vectors_BD = vectors_BD.astype(dtype)
    bad = ~np.isfinite(vectors_BD).all(1)
    if bad.any():
        raise SearchError(
            f"the vector of text {piece.start + int(np.argmax(bad))} is not finite in {dtype}"
        )
    return vectors_BD


def _claim(folder: Path, wanted: dict[str, Any]) -> None:
    """Makes the folder, or checks that it belongs to the same encoder and layout."""
    wanted = {"version": _VERSION, **wanted}
    if not (folder / _HEAD).is_file():
        if folder.exists() and (folder.is_file() or any(folder.iterdir())):
            raise SearchError(
                f"{folder} is there already and holds no vectors; name another folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(folder / _HEAD, wanted, None)
        return
    found = _read(folder / _HEAD)
    for name, value in wanted.items():
        if found.get(name) != value:
            raise SearchError(
                f"{folder} was made with {name} {found.get(name)!r}, not {value!r}; take another folder"
            )


def _done(folder: Path) -> dict[int, dict[str, Any]]:
    """The last line of each block; a line that a kill cut short is dropped, and cut off the file."""
    path, done, good = folder / _BLOCKS, {}, 0
    if not path.exists():
        return done
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            mark = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        done[mark["block"]] = mark
        good += len(line)
    os.truncate(path, good)
    return done


def _open(folder: Path, dim: int, dtype: str, block: int) -> Any:
    import tensorstore

    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(folder / "vectors")},
        "metadata": {
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [block, dim]}},
            "data_type": dtype,
        },
    }
    try:
        return tensorstore.open(
            spec, open=True, create=True, shape=[0, dim] if not _there(folder) else None
        ).result()
    except ValueError as error:
        raise SearchError(f"{folder / 'vectors'} cannot be read: {error}") from error


def _there(folder: Path) -> bool:
    return (folder / "vectors" / "zarr.json").is_file()


def _hash(piece: Sequence[str]) -> str:
    """Of texts in their order; lengths go in, so that moving a boundary is a change."""
    data = [text.encode("utf-8", "surrogatepass") for text in piece]
    return files.content_hash(
        *(part for one in data for part in (len(one).to_bytes(8, "little"), one)), digits=32
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise SearchError(f"there are no vectors in {path.parent} (no {path.name})") from None
    except ValueError as error:
        raise SearchError(f"{path} is damaged: {error}") from error

"""Floor 1: features that a frozen model gives of rows, computed once and kept on disk. tensorstore (zarr3), any place.

    FOLDER/KEY/facts.json     what the rows depend on, as it was given
    FOLDER/KEY/people.json    whose rows they are, where that was said: whoever is forgotten is found by it
    FOLDER/KEY/features/      array [N, ...]: a shard (one file) of some rows, each row a chunk with its own checksum

A shard is written beside its place and renamed, so it is whole or not there: a run that is killed in mid-shard computes
that one again, and no other. KEY is a hash of everything that the numbers depend on (weights, token ids, layers, type),
so features of other weights or texts are never read in their place: they are computed, beside the older ones.
"""

import dataclasses
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from jaxrec import files
from jaxrec.config import RunError

_FACTS, _ROWS, _PEOPLE = "facts.json", "features", "people.json"
_NAMED = 200  # characters of a library's message that are shown


class FeatureError(RunError):
    """Features that cannot be kept, or that are damaged."""


@dataclasses.dataclass(frozen=True)
class FeatureConfig:
    """Where features of frozen models are kept, so that epochs do not compute them again."""

    folder: str = ""  # any folder, shared by all runs; nothing is kept where it is empty
    dtype: str = "bfloat16"  # that numbers are kept in: half the room of float32, 3 digits
    shard: int = 64  # rows of a file: what a kill can cost, and what is in memory at a time
    rows: int = 16  # that are computed at a time


class FeatureStore:
    """An array of features on disk [N, ...]. Indexed by an array of row numbers it reads those rows and no others.

    What numpy's arrays have where a data source looks: `shape`, `dtype`, `nbytes`, `len`, `store[rows]`.

    Args:
      folder: of this array alone, `FOLDER/KEY`.
      shape: N and that of a row.
      cfg: type of the numbers, rows of a shard.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], cfg: FeatureConfig):
        self.folder, self.shape, self.cfg = folder, shape, cfg
        self._array = self._open()

    @property
    def dtype(self) -> np.dtype:
        """Of the stored numbers."""
        return self._array.dtype.numpy_dtype

    @property
    def nbytes(self) -> int:
        """Of all rows, as they lie in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def content(self) -> str:
        """What a hash of the data takes in place of all the numbers: they follow from the key."""
        return self.folder.name

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """These rows. Raises FeatureError where a checksum says that what lies on the disk is damaged."""
        try:
            return np.asarray(self._array[rows].read().result())
        except (ValueError, OSError) as error:
            raise FeatureError(
                f"the features in {self.folder} are damaged: remove that folder, and they are computed again"
                f" ({str(error)[:_NAMED]})"
            ) from error

    def missing(self) -> list[slice]:
        """The shards that are not there, as rows."""
        # A shard's key is `c/` with its number on each axis, and only the first axis is cut.
        there = {str(key, "ascii").split("/")[1] for key in self._keys() if key.startswith(b"c/")}
        size = self.cfg.shard
        starts = range(0, self.shape[0], size)
        return [
            slice(at, min(at + size, self.shape[0]))
            for at in starts
            if str(at // size) not in there
        ]

    def fill(self, compute: Callable[[slice], np.ndarray], what: str, progress: bool = True) -> int:
        """Computes and writes the shards that are missing; gives how many those were.

        Args:
          compute: the features of some rows.
          what: they are of, for the lines that are printed.
          progress: a bar on stderr.

        Raises FeatureError for numbers that are not finite, and where the disk has no room.
        """
        todo = self.missing()
        if not todo:
            return 0
        here = -(-self.shape[0] // self.cfg.shard)
        others = sum(one.is_dir() for one in self.folder.parent.iterdir()) - 1
        before = (
            f"{here - len(todo)} of {here} shards are there"
            if len(todo) < here
            else "none is there"
        )
        print(
            f"features of {what}: {before} (weights, tokens and layers {self.folder.name}; {others} other sets in"
            f" {self.folder.parent}), {len(todo)} are computed",
            flush=True,
        )
        self._check_room(len(todo))
        for rows in tqdm(todo, desc=f"features of {what}", unit="shard", disable=not progress):
            made = np.asarray(compute(rows))
            if not np.isfinite(made.astype(np.float32)).all():
                raise FeatureError(
                    f"features of {what}: rows {rows.start} to {rows.stop} are not finite"
                )
            try:
                self._array[rows].write(made.astype(self.dtype)).result()
            except (ValueError, OSError) as error:
                raise FeatureError(f"cannot write {self.folder}: {str(error)[:_NAMED]}") from error
        return len(todo)

    # -------------------------------------------------------------------------------------- inside

    def _check_room(self, shards: int) -> None:
        needed = self.nbytes * min(shards * self.cfg.shard, len(self)) // len(self)
        room = shutil.disk_usage(self.folder).free
        if needed > room:
            raise FeatureError(
                f"{self.folder} has room for {room >> 20} MB and these features take {needed >> 20} MB: name another"
                " folder, or fewer texts"
            )

    def _keys(self) -> list[bytes]:
        return self._array.kvstore.list().result()

    def _open(self) -> Any:
        import tensorstore

        (count, *row), size = self.shape, self.cfg.shard
        last = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        inner = {"chunk_shape": [1, *row], "codecs": last, "index_codecs": last}
        spec = {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(self.folder / _ROWS)},
            "metadata": {
                "shape": [count, *row],
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [size, *row]}},
                "data_type": self.cfg.dtype,
                "codecs": [{"name": "sharding_indexed", "configuration": inner}],
            },
            # A shard of zeros alone is a shard all the same: without a file it would count as missing for ever.
            "store_data_equal_to_fill_value": True,
        }
        try:
            return tensorstore.open(spec, open=True, create=True).result()
        except (ValueError, OSError) as error:
            raise FeatureError(
                f"{self.folder} cannot be used for features: {str(error)[:_NAMED]}"
            ) from error


def open_features(
    cfg: FeatureConfig,
    facts: Mapping[str, Any],
    shape: tuple[int, ...],
    whose: Sequence[str] = (),
) -> FeatureStore:
    """The features of these facts in `cfg.folder`, as far as they are there.

    Args:
      cfg: where they lie.
      facts: all that the numbers depend on, as JSON; their hash is the name of the folder.
      shape: N and that of a row.
      whose: tenants whose rows they are.

    Raises FeatureError for a folder that cannot be written and for sizes that cannot be.
    """
    if cfg.dtype not in ("bfloat16", "float16", "float32") or cfg.shard < 1 or cfg.rows < 1:
        raise FeatureError(
            f"features of dtype {cfg.dtype!r} in shards of {cfg.shard}, {cfg.rows} rows at a time: bfloat16, float16 or"
            " float32, and at least 1, are meant"
        )
    if 0 in shape:
        raise FeatureError(f"features of shape {shape}: there is nothing to keep")
    whole = {**facts, "shape": list(shape), "dtype": cfg.dtype, "shard": cfg.shard}
    key = files.content_hash(repr(sorted(whole.items())), digits=16)
    folder = Path(cfg.folder).expanduser().absolute() / key
    try:
        files.write_json(folder / _FACTS, whole)
        if whose:
            files.write_json(folder / _PEOPLE, {"tenants": sorted(set(whose))}, ensure_ascii=False)
    except OSError as error:
        raise FeatureError(f"cannot keep features in {cfg.folder}: {error.strerror}") from error
    return FeatureStore(folder, shape, cfg)


@dataclasses.dataclass(frozen=True)
class FeaturePart:
    """The places of each row from `start` on."""

    store: FeatureStore
    start: int

    @property
    def content(self) -> str:
        """As of the store."""
        return f"{self.store.content} from {self.start}"

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """As of the store."""
        return self.store[rows][:, self.start :]

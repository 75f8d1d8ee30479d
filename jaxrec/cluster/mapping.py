"""One function over all shards, and the results of those that are finished already."""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec import files
from jaxrec.cluster.connection import Terms, parse
from jaxrec.cluster.job import ClusterError, Job
from jaxrec.cluster.workers import work

_MARK = "job.json"


def map_shards(
    function: Callable[..., Any],
    shards: Iterable[Any],
    *,
    address: str = "",
    setup: Callable[[], Any] | None = None,
    name: Callable[[int, Any], str] | None = None,
    threads: int = 0,
    accelerator: bool = False,
    in_flight: int = 0,
    attempts: int = 3,
    patience: float = 300.0,
    keep: str | Path = "",
    mark: str = "",
    progress: str = "",
) -> Iterator[Any]:
    """The results of all shards, in their order.

    Args:
      function: shard -> result, or (what setup gave, shard) -> result. On a cluster it, the shards and the results
        travel between processes: functions of modules, `functools.partial` of them, plain values and arrays.
      shards: a sequence, or an iterator that is read as far as workers need it.
      address: where; see the package.
      setup: called once by each worker (once in this process) before its first shard.
      name: (number, shard) -> how messages call a shard.
      threads: cores that a worker uses and reserves: BLAS, OpenMP, jax on a CPU and tokenizers keep to it. 0: one; of
        "local:N" an N-th of this machine's. In this process everything has the threads that it has.
      accelerator: whether a worker takes a GPU where the cluster has any.
      in_flight: shards that are begun, or made and not yet asked for, at a time; 0: four a worker. It bounds memory.
      attempts: workers that may die over one shard before it is given up. A shard that raises is not tried again.
      patience: seconds without any living worker, or room for one, before the job is given up.
      keep: a folder for the result of each finished shard, which the next call of the same job finds there: plain
        values as JSON, a mapping of arrays as .npz. What is given back is what such a file holds. "": nothing is kept.
      mark: a hash of all that the results depend on; a folder of another mark is refused.
      progress: what a bar on stderr is called; "": none.

    Raises ShardError for a shard that raises, or takes `attempts` workers with it; ClusterError for an address that is
    none or does not answer, where Ray is not installed, and for workers that can't begin.
    """
    job = Job(function, setup, name) if name else Job(function, setup)
    kept = _Kept(Path(keep), mark) if str(keep) else None
    total = len(shards) if isinstance(shards, Sized) else None
    if attempts < 1 or threads < 0 or in_flight < 0:
        raise ClusterError(
            f"attempts {attempts}, threads {threads}, in_flight {in_flight}: not possible"
        )
    if not address:
        made = _here(job, shards, kept)
    else:
        terms = Terms(parse(address), threads, accelerator, in_flight, attempts, patience)
        made = work(job, shards, kept, terms)
    return _shown(made, total, progress)


class _Kept:
    """Results of finished shards in a folder, one file a shard."""

    def __init__(self, folder: Path, mark: str):
        self.folder = folder
        if folder.is_dir() and any(folder.iterdir()):
            try:
                old = json.loads((folder / _MARK).read_text())["mark"]
            except (OSError, ValueError, KeyError, TypeError):
                raise ClusterError(
                    f"{folder} is there already and holds no finished shards; name another folder"
                ) from None
            if old != mark:
                raise ClusterError(
                    f"{folder} holds shards of another job (other inputs or settings): remove it, or name another"
                )
        files.write_json(folder / _MARK, {"mark": mark}, None)

    def read(self, number: int) -> tuple[Any] | None:
        """(result,) of a shard that was finished before; None where it was not."""
        stem = f"{number:06d}"
        if (path := self.folder / f"{stem}.json").is_file():
            return (json.loads(path.read_text(encoding="utf-8")),)
        if (path := self.folder / f"{stem}.npz").is_file():
            with np.load(path, allow_pickle=False) as arrays:
                return ({key: arrays[key] for key in arrays.files},)
        return None

    def write(self, number: int, result: Any) -> Any:
        """Writes a result, whole or not at all, and gives it as it will be read."""
        path = self.folder / f"{number:06d}.json"
        if (
            isinstance(result, Mapping)
            and result
            and all(isinstance(value, np.ndarray) for value in result.values())
        ):
            with files.open_atomically(path.with_suffix(".npz"), "wb") as file:
                np.savez(file, **result)
            return dict(result)
        # ASCII alone: half of a character, which no encoding has bytes for, is written as its code.
        text = json.dumps(result)
        files.write_atomically(path, text)
        return json.loads(text)


def _here(job: Job, shards: Iterable[Any], kept: _Kept | None) -> Iterator[Any]:
    run = None
    for number, shard in enumerate(shards):
        if kept is not None and (found := kept.read(number)):
            yield found[0]
            continue
        run = run or job.begin()
        try:
            result = run(shard)
        except Exception as error:
            raise job.failure(number, shard, error) from error
        yield result if kept is None else kept.write(number, result)


def _shown(made: Iterator[Any], total: int | None, progress: str) -> Iterator[Any]:
    from tqdm import tqdm

    with (
        contextlib.closing(made),
        tqdm(desc=progress, total=total, unit="shard", disable=not progress) as bar,
    ):
        for result in made:
            bar.update()
            yield result

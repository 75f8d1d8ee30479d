"""Shards by Ray: one actor a worker, deaths counted and their shards made again, results in order.

The work is handed out here rather than by Ray's own retries, which neither count the dead nor name the shard that
killed them. A worker holds at most two shards, so that it need not wait for this process between them. What a worker
prints comes back with its result and is printed here on stderr.
"""

import contextlib
import io
import logging
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jaxrec import __version__
from jaxrec.cluster.connection import Terms, connected, first_line, threads_of
from jaxrec.cluster.job import ClusterError, Job, ShardError
from jaxrec.config import RunError

_log = logging.getLogger(__name__)
_HELD = 2  # shards that a worker holds: the one it makes, and the next one
_WINDOW = 4  # shards in flight for each worker
_THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "NPROC",
)  # fmt: skip


def work(job: Job, shards: Iterable[Any], kept: Any, terms: Terms) -> Iterator[Any]:
    """The results of all shards in order.

    job: what is done to each. shards: as of `map_shards`. kept: finished shards, or None. terms: where and how.
    """
    with connected(terms) as ray:
        pool = _Pool(ray, job, terms)
        try:
            yield from pool.results(shards, kept)
        finally:
            pool.end()


# ------------------------------------------------------------------------------------------ a worker


class Said(NamedTuple):
    """What a worker gives back: a result or the line of an error, whether that is a RunError's, and what it printed."""

    result: Any = None
    error: str = ""
    ours: bool = False
    printed: str = ""


class Worker:
    """The inside of an actor: the job, loaded once the process knows how many cores are its own."""

    def __init__(self, threads: int):
        # jax, BLAS and tokenizers look once, when they are loaded; each would take every core of the machine.
        os.environ.update(dict.fromkeys(_THREADS, str(threads)))
        if threads == 1:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self._job: Job | None = None
        self._run: Any = None

    def begin(self, packed: bytes, version: str) -> Said:
        """Loads the job and does its setup."""
        return _captured(lambda: self._begin(packed, version))

    def make(self, number: int, shard: Any) -> Said:
        """The result of one shard, or what went wrong with it."""

        def run() -> Any:
            try:
                return self._run(shard)
            except Exception as error:
                raise self._job.failure(number, shard, error) from error

        return _captured(run)

    def _begin(self, packed: bytes, version: str) -> None:
        from ray import cloudpickle

        if version != __version__:
            raise ClusterError(
                f"a worker has jaxrec {__version__}, this process has {version}: install the same everywhere"
            )
        try:
            self._job = cloudpickle.loads(packed)
        except Exception as error:
            raise ClusterError(
                f"a worker can't load the job: {type(error).__name__}: {error}"
            ) from error
        self._run = self._job.begin()


def _captured(run: Any) -> Said:
    printed = io.StringIO()
    result, line, ours = None, "", True
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            result = run()
        except RunError as error:
            line = str(error) or type(error).__name__
        except Exception as error:
            line, ours = f"{type(error).__name__}: {error}", False
    return Said(result, line, ours, printed.getvalue())


# ------------------------------------------------------------------------------------------ all workers


@dataclass
class _Shard:
    number: int
    content: Any
    deaths: int = 0


@dataclass(eq=False)
class _Hand:
    """One worker as this process sees it; `begun`: the answer to `begin`, while that is waited for."""

    actor: Any
    begun: Any
    queue: deque[tuple[_Shard, Any]] = field(default_factory=deque)


class _Pool:
    def __init__(self, ray: Any, job: Job, terms: Terms):
        self.ray, self.job, self.terms = ray, job, terms
        self.threads = threads_of(terms)
        self.hands: list[_Hand] = []
        self.again: list[_Shard] = []
        self.lost = self.early = (
            0  # workers: all that died, and those in a row that never came to work
        )
        try:
            packed = ray.cloudpickle.dumps(job)
        except Exception as error:
            raise ClusterError(f"the job can't be sent to workers: {first_line(error)}") from error
        self.packed = ray.put(packed)
        asked = {"num_cpus": self.threads, "max_restarts": 0, "max_task_retries": 0}
        if terms.accelerator and ray.cluster_resources().get("GPU"):
            asked["num_gpus"] = 1
        self.kind = ray.remote(Worker).options(**asked)
        self.wanted = self._room(asked)
        self.since = time.monotonic()

    def _room(self, asked: dict[str, Any]) -> int:
        """So many workers fit into the whole cluster; one at least, which then waits for room."""
        fits = 0
        for node in self.ray.nodes():
            if node["Alive"]:
                has = node["Resources"]
                count = int(has.get("CPU", 0) // self.threads)
                fits += min(count, int(has.get("GPU", 0))) if "num_gpus" in asked else count
        return max(fits, 1)

    def results(self, shards: Iterable[Any], kept: Any) -> Iterator[Any]:
        coming = enumerate(shards)
        window = self.terms.in_flight or _WINDOW * self.wanted
        done: dict[int, Any] = {}
        taken = given = 0
        more = True
        while more or self.again or given < taken:
            while more and taken - given < window:
                following = next(coming, None)
                if more := following is not None:
                    taken += 1
                    found = kept.read(following[0]) if kept is not None else None
                    if found:
                        done[following[0]] = found[0]
                    else:
                        self.again.append(_Shard(*following))
            self._hand_out()
            if given not in done and given < taken:
                for shard, result in self._wait():
                    done[shard.number] = (
                        result if kept is None else kept.write(shard.number, result)
                    )
            while given in done:
                yield done.pop(given)
                given += 1
        if self.lost:
            _log.warning("%d workers were lost; the shards they held were made again", self.lost)

    def _hand_out(self) -> None:
        """The first shards that nobody makes to the workers with the fewest, and workers for as many as need one."""
        self.again.sort(key=lambda shard: shard.number)
        for held in range(_HELD):
            for hand in self.hands:
                if self.again and hand.begun is None and len(hand.queue) == held:
                    shard = self.again.pop(0)
                    ref = hand.actor.make.remote(shard.number, shard.content)
                    hand.queue.append((shard, ref))
        beginning = sum(hand.begun is not None for hand in self.hands)
        for _ in range(min(self.wanted - len(self.hands), len(self.again) - beginning)):
            actor = self.kind.remote(self.threads)
            self.hands.append(_Hand(actor, actor.begin.remote(self.packed, __version__)))

    def _wait(self) -> list[tuple[_Shard, Any]]:
        """Waits for some worker to say something; the shards that are finished."""
        refs = {
            hand.begun if hand.begun is not None else hand.queue[0][1]: hand
            for hand in self.hands
            if hand.begun is not None or hand.queue
        }
        ready, _ = self.ray.wait(list(refs), timeout=min(10.0, self.terms.patience))
        made = []
        for ref in ready:
            hand = refs[ref]
            try:
                said = self.ray.get(ref)
            except (
                self.ray.exceptions.RayTaskError
            ) as error:  # on its way: what can't be sent or loaded
                raise self._unsent(hand, error) from error
            except self.ray.exceptions.RayError as error:
                self._bury(hand, error)
                continue
            self._print(said.printed)
            if hand.begun is not None:
                if said.error:
                    raise ClusterError(said.error)
                hand.begun, self.early = None, 0
            else:
                shard, _ = hand.queue.popleft()
                if said.error:
                    raise ShardError(said.error)
                made.append((shard, said.result))
        if any(hand.begun is None for hand in self.hands):
            self.since = time.monotonic()
        elif time.monotonic() - self.since > self.terms.patience:
            self._give_up_waiting()
        return made

    def _unsent(self, hand: _Hand, error: Exception) -> RunError:
        why = f"{first_line(error.cause or error)}"
        if not hand.queue:
            return ClusterError(f"a worker could not begin: {why}")
        shard = hand.queue[0][0]
        name = self.job.name(shard.number, shard.content)
        return ShardError(f"{name}: it, or its result, can't travel between processes: {why}")

    def _bury(self, hand: _Hand, error: Exception) -> None:
        """A worker is gone: what it held is made again, and the shard that it was at knows of it."""
        why = first_line(error)
        self.hands.remove(hand)
        self._kill(hand)
        self.lost += 1
        if not hand.queue:
            self.early += 1
            if self.early >= self.terms.attempts:
                raise ClusterError(
                    f"{self.early} workers died before their first shard: {why}"
                ) from error
            _log.warning("a worker died before its first shard (%s); another one begins", why)
            return
        shard = hand.queue[0][0]
        shard.deaths += 1
        name = self.job.name(shard.number, shard.content)
        if shard.deaths >= self.terms.attempts:
            raise ShardError(
                f"{name}: {shard.deaths} workers died over it, it is given up ({why})"
            ) from error
        _log.warning("%s: its worker died (%s); it is made again", name, why)
        self.again += [held for held, _ in hand.queue]

    def _give_up_waiting(self) -> None:
        has, free = self.ray.cluster_resources(), self.ray.available_resources()
        raise ClusterError(
            f"no worker could begin within {self.terms.patience:g} seconds: each takes {self.threads} CPUs; the "
            f"cluster has {has.get('CPU', 0):g}, of which {free.get('CPU', 0):g} are free"
        )

    def _print(self, text: str) -> None:
        for line in filter(str.strip, text.splitlines()):
            _log.warning("worker: %s", line.rstrip())

    def _kill(self, hand: _Hand) -> None:
        with contextlib.suppress(Exception):  # it may be gone, and the cluster with it
            self.ray.kill(hand.actor, no_restart=True)

    def end(self) -> None:
        for hand in self.hands:
            self._kill(hand)

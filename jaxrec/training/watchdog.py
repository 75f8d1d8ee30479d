"""Floor 2: says where a run stands when it stands still, and ends it when it does so for too long.

The loop names what it begins (`enter`), a thread looks at the clock. What takes `stall` times the median of what it
took before is said in the log with the step, the phase, the host, and what the other processes of the job are doing;
the stacks of all threads go into OUT/stalled.PROCESS.txt. After `hang` seconds in one phase the process ends with
status 76, so that a launcher begins the job again.
"""

import faulthandler
import logging
import statistics
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxrec import peers
from jaxrec.peers import Peers

DATA, STEP, EVALUATION, CHECKPOINT = (
    "reading data",
    peers.TRAINING,
    "evaluation",
    "saving a checkpoint",
)
RESTORING, COMPILING = "restoring a checkpoint", "compiling and first step"
_LEAST = 5.0  # seconds: shorter than this nothing counts as standing still
_ENOUGH = 5  # times that a phase must have been seen before its median means something
_KEPT = 101  # of the last durations of a phase
_PERIOD = 1.0

_log = logging.getLogger(__name__)


class Watchdog:
    """Watches one run of the loop, as a context.

    stall: a phase that takes so many times its median is said in the log; 0: never. hang: seconds in one phase after
    which the process ends; 0: never. out: where the stacks are written. others: the job's processes, where there are
    more. shapes: of batches, each of which is compiled for when it first comes. clock, end: seconds that only grow,
    and what ends the process (line, status); other ones in tests.
    """

    def __init__(
        self,
        stall: float,
        hang: float,
        out: str | Path,
        *,
        others: Peers | None = None,
        shapes: int = 1,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[str, int], Any] = peers.leave,
    ):
        self.stall, self.hang, self.out = stall, hang, Path(out)
        self.others, self.clock, self.end = others, clock, end
        self.shapes = shapes
        self.index = others.index if others else 0
        self._taken: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_KEPT))
        # Step, phase and beginning change together: one assignment, so that the thread never sees half of it.
        self._now: tuple[int, str, float] = (0, "", clock())
        self._limit = 0.0  # of the phase that has been warned of, the next warning's seconds
        self._warned: float | None = None  # the beginning of that phase
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self.stall or self.hang:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self.enter(self._now[0], "after training")

    def enter(self, step: int, phase: str) -> None:
        """The run begins with `phase` of step `step`; how long the last one took is remembered."""
        now, (_, before, since) = self.clock(), self._now
        if before:
            self._taken[before].append(now - since)
        self._now = step, phase, now
        if self.others:
            self.others.note(step, phase)

    def check(self) -> None:
        """Looks at the clock: warns, or ends the process."""
        step, phase, since = self._now
        seconds = self.clock() - since
        if self.hang and seconds > self.hang:
            return self._end(step, phase, seconds)
        taken = self._taken.get(phase, ())
        if not self.stall or len(taken) < _ENOUGH:
            return None
        median = statistics.median(taken)
        if self._warned != since:
            self._warned, self._limit = since, max(self.stall * median, _LEAST)
        if seconds > self._limit:
            self._limit = 2 * seconds  # the next warning, if it goes on
            self._warn(step, phase, seconds, median)
        return None

    def _warn(self, step: int, phase: str, seconds: float, median: float) -> None:
        compiles = phase == STEP and self.shapes > 1
        _log.warning(
            "step %d: %s takes %.0f s, %.0f times its median of %.3g s%s%s; stacks: %s",
            step, phase, seconds, seconds / max(median, 1e-9), median,
            f" (perhaps one of {self.shapes} shapes is compiled)" if compiles else "",
            self._where(), self._stacks(),
        )  # fmt: skip

    def _end(self, step: int, phase: str, seconds: float) -> None:
        line = (
            f"step {step}: {phase} takes {seconds:.0f} s, longer than loop.hang allows ({self.hang:g} s)"
            f"{self._where()}; stacks: {self._stacks()}; {peers.saved_in(self.out / 'checkpoints')}. "
            f"Exit status {peers.STALLED}: begin it again, the same command goes on: {peers.command()}"
        )
        if self.others:
            self.others.stalled(line)
        else:
            self.end(line, peers.STALLED)

    def _where(self) -> str:
        """Which process this is, and which of the others holds everybody up, as far as they said."""
        if self.others is None:
            return ""
        here = f"; this is process {self.index} ({self.others.host})"
        behind = self.others.behind()
        return f"{here}; {behind}" if behind else here

    def _stacks(self) -> Path:
        path = self.out / f"stalled.{self.index}.txt"
        self.out.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(
                f"{time.strftime('%Y-%m-%d %H:%M:%S')} step {self._now[0]}, {self._now[1]}\n"
            )
            file.flush()
            faulthandler.dump_traceback(file)
        return path

    def _run(self) -> None:
        while not self._stop.wait(_PERIOD):
            self.check()

"""The contender's side of a race: a process that works when it is told to, and says what that took.

    PYTHON -m bench.race.worker MODULE --options '{"batch": 16}'

MODULE has `prepare(**options) -> dict[str, Work]`, which does everything that is not to be timed: imports,
weights, compilation. Then one JSON object a line, request on stdin, reply on stdout:

    {"work": NAME}                 -> {"seconds", "cpu", "foreign"}
    {"answer": NAME, "to": PATH}   -> {"saved": PATH}: what the work computes, so that contenders can be compared
    {"memory": NAME}               -> {"memory_mb"}: the most memory that the process has held, answers left out

Memory is what the system counts (VmHWM) from the process's start to its last round: libraries, weights as they were
read, compilation and work. So a peer's import of torch and transformers counts, and so does our compiler. On an
accelerator it is the accelerator's memory.
"""

import argparse
import dataclasses
import importlib
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from jaxrec.usage import busy_seconds, own_seconds


@dataclasses.dataclass
class Work:
    """One thing to be timed. `run` blocks until done; `answer` gives an array that the others must match.

    `share`: how much of the race's work one call does, where all of it would take too long; seconds are scaled up.
    `apart`: the work is a process that `run` starts, and that one's memory counts. `memory`: gives the most megabytes
    held on an accelerator, which count there in place of the process's. `info` may hold what `chip.rates` reads.
    """

    run: Callable[[], Any]
    answer: Callable[[], Any] | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    info: dict[str, Any] = dataclasses.field(default_factory=dict)
    share: float = 1.0
    apart: bool = False
    memory: Callable[[], int] | None = None


QUICK = 10.0  # seconds a call
LONG_ENOUGH = 1.0  # second: the system counts CPU time in hundredths


def timed(work: Work, calls: int = 0) -> dict[str, float]:
    """Wall seconds of a call, and meanwhile the cores used by it and those used by everyone else.

    calls 0: of one call. Otherwise the mean of so many in a row, after one that does not count: while others had
    their turn the system took back the memory that this process freed, and to have it again cost up to a second of a
    two-second step: in a loop, the way it is used, nothing.
    """
    if calls:
        work.run()
    own, busy, start = own_seconds(), busy_seconds(), time.perf_counter()
    for _ in range(max(calls, 1)):
        work.run()
    seconds, after = time.perf_counter() - start, busy_seconds()
    own = own_seconds() - own
    foreign = 0.0 if busy is None or after is None else max(0.0, after - busy - own)
    each = seconds / max(calls, 1) / work.share
    return {"seconds": each, "cpu": own / seconds, "foreign": foreign / seconds}


def calls_of(seconds: float) -> int:
    """How many calls `timed` is to make where one takes `seconds`: a second's worth, or 0 where one is long."""
    return min(1000, math.ceil(LONG_ENOUGH / seconds)) if seconds < QUICK else 0


def serve(
    works: dict[str, Work], calls: dict[str, int], requests: Any, reply: Callable[[dict], None]
) -> None:
    """Answers requests until there are no more. `calls`: what `timed` is told of a work (0 if it isn't there)."""
    peak = 0
    for line in requests:
        asked = json.loads(line)
        if "work" in asked:
            reply(timed(works[asked["work"]], calls.get(asked["work"], 0)))
        elif "memory" in asked:
            on_device = works[asked["memory"]].memory
            if on_device is not None:
                reply({"memory_mb": on_device()})
            elif works[asked["memory"]].apart:
                reply({"memory_mb": _rusage_mb(resource.RUSAGE_CHILDREN)})
            else:
                reply({"memory_mb": max(peak, peak_memory_mb())})
        else:
            peak = max(peak, peak_memory_mb())
            answer = works[asked["answer"]].answer
            if answer is not None:
                import numpy

                numpy.save(asked["to"], numpy.asarray(answer()))
                forget_peak()
            reply({"saved": asked["to"] if answer is not None else None})


def peak_memory_mb() -> int:
    """The most memory this process has held, since `forget_peak` where that was called."""
    try:
        with open("/proc/self/status") as file:
            return next(int(x.split()[1]) for x in file if x.startswith("VmHWM")) // 2**10
    except (OSError, StopIteration):
        return _rusage_mb(resource.RUSAGE_SELF)


def forget_peak() -> None:
    """Lets the system count the peak anew, from what is held now; a system that can't goes on as before."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass


def _seconds(work: Work) -> float:
    start = time.perf_counter()
    work.run()
    return time.perf_counter() - start


def _rusage_mb(whose: int) -> int:
    scale = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, kilobytes here
    return resource.getrusage(whose).ru_maxrss // scale


def main() -> None:
    """Prepares the module named on the command line and serves it."""
    parser = argparse.ArgumentParser(prog="python -m bench.race.worker", description=__doc__)
    parser.add_argument("module", help="such as bench.race.jax_decode")
    parser.add_argument("--options", type=json.loads, default={}, help="JSON: arguments of prepare")
    flags = parser.parse_args()
    # Libraries print as they like: the protocol keeps the real stdout, and they get stderr.
    protocol = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(message: dict) -> None:
        print(json.dumps(message), file=protocol, flush=True)

    start = time.perf_counter()
    try:
        works = importlib.import_module(flags.module).prepare(**flags.options)
        for work in works.values():
            work.run()  # compilation, first touch of memory
        again = {name: work for name, work in works.items() if not work.apart}
        calls = {name: calls_of(_seconds(work)) for name, work in again.items()}
    except ImportError as error:
        reply({"missing": str(error.name or error)})
        return
    except Exception as error:
        reply({"failed": f"{type(error).__name__}: {error}"})
        raise
    ready: dict[str, Any] = {"prepare_s": round(time.perf_counter() - start, 1)}
    ready["versions"] = {k: v for work in works.values() for k, v in work.versions.items()}
    ready["info"] = {
        name: work.info | ({"share_run": round(work.share, 4)} if work.share < 1 else {})
        for name, work in works.items()
    }
    reply({"ready": ready})
    serve(works, calls, sys.stdin, reply)


if __name__ == "__main__":
    main()

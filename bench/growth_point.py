"""One point of a growth curve, measured in a process of its own: time of a step, and the memory that it holds.

    python -m bench.growth_point --axis batch --value 8
    python -m bench.growth_point --machine

Prints {"step_ms", "peak_mb", "steps", "cpu_ms", "system", "others", "wall_s"}. `peak_mb`: the most that was held while
steps ran, less what was held before the model was made; the programs were compiled in a first pass, whose memory is
given back. `cpu_ms`: CPU time of a step, all cores together; `system`: the share of it that the operating system took
(new pages, mostly). `others`: cores that other programs used meanwhile. `--machine` prints {"flops", "moved"}, what a
matrix product and a sum reach in a second: the two constants that the curve on paper needs.
"""

import argparse
import ctypes
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.growth_paper import AXES, Machine, Sizes
from bench.race.worker import Work, timed


def measure(axis: str, value: int, sizes: Sizes, steps: int, seconds: float) -> dict[str, float]:
    """The point's numbers: the median of at least `steps` steps, and of more as long as `seconds` have not passed."""
    from bench.growth_cases import case
    from jaxrec.usage import peak_mb

    began = time.perf_counter()
    made = case(axis, value, sizes)
    made.step(made.build())  # compiles
    given_back()
    start_again = _peak_starts_now()
    before = held_mb()
    state = made.build()
    given_back()
    start_again = start_again and _peak_starts_now()
    told: list[dict[str, float]] = []

    def one() -> None:
        nonlocal state
        state = made.step(state)

    since, spent = time.perf_counter(), os.times()
    while len(told) < steps or time.perf_counter() - since < seconds:
        told.append(timed(Work(one)))
    after, took = os.times(), sum(t["seconds"] for t in told)
    user, system = after.user - spent.user, after.system - spent.system
    return {
        "step_ms": 1e3 * statistics.median(t["seconds"] for t in told) / made.updates,
        "peak_mb": peak_mb() - before if start_again else None,
        "steps": len(told),
        "cpu_ms": 1e3 * (user + system) / len(told) / made.updates,
        "system": round(system / max(user + system, 1e-9), 3),
        "others": round(sum(t["foreign"] * t["seconds"] for t in told) / took, 3),
        "wall_s": round(time.perf_counter() - began, 2),
    }


def machine(rounds: int = 15) -> Machine:
    """Operations a second of a matrix product of 1,536 numbers square, bytes a second of a sum of 256 MB; the best."""
    import jax
    import jax.numpy as jnp

    square, long = jnp.ones((1536, 1536)), jnp.ones((64, 1 << 20))
    product, total = jax.jit(jnp.matmul), jax.jit(jnp.sum)
    flops = 2 * 1536**3 / _best(lambda: product(square, square), rounds)
    return Machine(flops, long.nbytes / _best(lambda: total(long), rounds))


def given_back() -> None:
    """Frees what nobody holds any more, to the operating system too where the C library can."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return  # not glibc: freed memory counts as held, before and after alike


def held_mb() -> float:
    """What this process holds now; 0 where /proc is not there (then no peak is told either)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    import resource

    return pages * resource.getpagesize() / 2**20


def _peak_starts_now() -> bool:
    """Forgets the highest memory so far; False where that can't be done (it needs Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _best(call: Callable[[], Any], rounds: int) -> float:
    call().block_until_ready()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        call().block_until_ready()
        taken.append(time.perf_counter() - began)
    return min(taken)


def main() -> int:
    """Measures and prints one line of JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.growth_point",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--axis", choices=AXES, help="what grows")
    parser.add_argument("--value", type=int, help="how large it is")
    parser.add_argument("--machine", action="store_true", help="measure the machine instead")
    parser.add_argument("--sizes", type=json.loads, default={}, help="JSON: fields of Sizes")
    parser.add_argument("--steps", type=int, default=5, help="at least so many steps")
    parser.add_argument("--seconds", type=float, default=1.0, help="and at least so long")
    parser.add_argument("--cache", help="folder of compiled programs, which other points may share")
    flags = parser.parse_args()
    if flags.cache:
        import jax

        jax.config.update("jax_compilation_cache_dir", flags.cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if flags.machine:
        found = machine()
        print(json.dumps({"flops": found.flops, "moved": found.moved}))
        return 0
    if flags.axis is None or flags.value is None:
        parser.error("give --axis and --value, or --machine")
    row = measure(flags.axis, flags.value, Sizes(**flags.sizes), flags.steps, flags.seconds)
    print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())

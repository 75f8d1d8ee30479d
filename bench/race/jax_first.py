"""Our first training step: a new process that imports, reads the weights, traces and compiles a LoRA step, and takes it
or leaves it at that.

    cold    jax's compilation cache is an empty folder
    warm    an earlier process has filled it

The cache is jax's own and holds every program, as JAX_COMPILATION_CACHE_DIR and the two variables below set it.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.race.jax_decode import versions
from bench.race.worker import Work

STEP = "from bench.race.{side}_sft import prepare; prepare({options})['work'].run()"
READY = "from bench.race.jax_sft import compiled; compiled({options})"


def prepare(cache: str = "cold", until: str = "ready", size: str = "30m") -> dict[str, Work]:
    """Each run is a process of its own: the step of `jax_sft`, until it is "ready" or "taken"."""
    folder = tempfile.TemporaryDirectory()
    code = {"ready": READY, "taken": STEP}[until].format(side="jax", options=f"size={size!r}")
    command = [sys.executable, "-c", code]

    def start(programs: Path) -> None:
        settings = {
            "JAX_COMPILATION_CACHE_DIR": str(programs),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        subprocess.run(command, check=True, env=os.environ | settings)

    def run() -> None:
        if cache == "warm":  # the race's first call, which is not counted, fills it
            start(Path(folder.name))
            return
        with tempfile.TemporaryDirectory() as empty:
            start(Path(empty))

    return {"work": Work(run, None, versions(), apart=True)}

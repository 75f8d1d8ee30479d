"""The peers' first training step: a new process that imports, reads the weights, and takes an eager LoRA step."""

import subprocess
import sys

from bench.race.jax_first import STEP
from bench.race.worker import Work


def prepare(size: str = "30m") -> dict[str, Work]:
    """Each run is a process of its own: the step of `torch_sft`."""
    import peft

    command = [sys.executable, "-c", STEP.format(side="torch", options=f"size={size!r}")]
    run = lambda: subprocess.run(command, check=True)
    return {"work": Work(run, None, {"peft": peft.__version__}, apart=True)}

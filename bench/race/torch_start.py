"""What the peers take to start: a new process that imports peft."""

import subprocess
import sys

from bench.race.worker import Work


def prepare() -> dict[str, Work]:
    """Each run is a process of its own."""
    import peft

    command = [sys.executable, "-c", "import peft"]
    run = lambda: subprocess.run(command, check=True)
    return {"work": Work(run, None, {"peft": peft.__version__}, apart=True)}

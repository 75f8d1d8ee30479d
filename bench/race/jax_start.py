"""What jaxrec takes to start: a new process that imports it, or that prints a training script's flags."""

import subprocess
import sys

from bench.race.worker import Work

COMMANDS = {
    "import": ["-c", "import jaxrec"],
    "help": ["-m", "jaxrec.train.personalize", "--help"],
}


def prepare() -> dict[str, Work]:
    """Each run is a process of its own."""

    def start(words: list[str]) -> None:
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)

    return {
        name: Work(lambda words=words: start(words), apart=True) for name, words in COMMANDS.items()
    }

"""What all launchers share: the command that every host runs, which ends are begun again, and --dry-run."""

import difflib
import itertools
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from jaxrec import command, config
from jaxrec.config import ConfigError, RunError
from jaxrec.peers import LOST, STALLED

T = TypeVar("T")
KILLED, PREEMPTED = 128 + 9, 128 + 15
# Ends after which the same command goes on from the newest whole checkpoint. Whatever else is not 0 is a mistake that
# would only be made again.
AGAIN = (LOST, STALLED, KILLED, PREEMPTED)
PORT = 8476  # of the coordinator


class LaunchError(RunError):
    """A job that can't be started."""


def run(main: Callable[[T, list[str]], None], config_class: type[T], description: str) -> None:
    """What a launcher ends with: `LAUNCHER [FILE] [--flags] -- train sft ...` -> main(cfg, ["train", "sft", ...])."""
    argv = sys.argv[1:]
    at = argv.index("--") if "--" in argv else len(argv)
    words = argv[at + 1 :]

    def begin(cfg: T) -> None:
        check(words)
        main(cfg, words)

    config.run(begin, config_class, description, argv[:at])


def check(words: Sequence[str]) -> None:
    """Raises ConfigError for what is no `train STAGE ...` that this installation has."""
    stages = command.scripts("train")
    if len(words) < 2 or words[0] != "train":
        raise ConfigError(
            "what should every host run? It stands after --, as in `-- train sft sft_sample --out runs/x`"
        )
    if (stage := words[1].replace("-", "_")) not in stages:
        close = difflib.get_close_matches(stage, stages, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(stages)}"
        raise ConfigError(f"there is no stage {words[1]!r}; {hint}")


def seen_by_all(words: Sequence[str], share: str) -> None:
    """Raises ConfigError if the run's folder isn't in the one that all hosts see."""
    out = next((b for a, b in itertools.pairwise(words) if a == "--out"), "")
    if not out.startswith(share.rstrip("/") + "/"):
        raise ConfigError(
            f"--out {out or 'is missing'}: all hosts must see the run's folder, so say --out {share}/..."
        )


def hand_over(text: str, tool: Sequence[str], dry_run: bool) -> None:
    """Gives a text to a program's standard input; with `dry_run` prints it, and starts nothing.

    Raises LaunchError where the program is missing or refuses.
    """
    if dry_run:
        print(text, end="")
        print(f"dry run: nothing was started; this goes to `{shlex.join(tool)}`", file=sys.stderr)
        return
    if shutil.which(tool[0]) is None:
        raise LaunchError(
            f"{tool[0]} is not installed here; --dry-run prints what it would be given"
        )
    if status := subprocess.run(tool, input=text, text=True).returncode:
        raise LaunchError(f"`{shlex.join(tool)}` ended with status {status}; see above")


def pattern(statuses: Sequence[int]) -> str:
    """Statuses as a pattern of the shell's `case`."""
    return " | ".join(map(str, statuses))

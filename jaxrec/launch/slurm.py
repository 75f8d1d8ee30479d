"""Start a job under SLURM: a batch script that begins again when a host dies, and requeues before its time is over.

    jaxrec launch slurm slurm_h100 --nodes 2-4 --dry-run -- train sft sft_sample --out runs/run1

One task a node; JAX learns addresses and numbers from SLURM. Submit it from a folder that all nodes see.
"""

import dataclasses
import re
import shlex
from collections.abc import Sequence

from jaxrec.config import ConfigError
from jaxrec.launch import job


@dataclasses.dataclass(frozen=True)
class SlurmConfig:
    """A batch job of SLURM."""

    name: str = "jaxrec"
    nodes: str = "4"  # or the fewest and the most, as "2-4": a run goes on with any number of nodes
    gpus: int = 8  # a node; 0: none
    cpus: int = 32  # a task
    time: str = "24:00:00"
    partition: str = ""
    account: str = ""
    jaxrec: str = "jaxrec"  # the command, as the nodes find it: .venv/bin/jaxrec
    setup: str = ""  # shell lines before it: modules, an environment
    options: tuple[str, ...] = ()  # more lines of #SBATCH: --constraint=ib
    restarts: int = 20
    notice: int = (
        180  # seconds before the time is over, or after a preemption, in which the state is saved
    )
    dry_run: bool = False  # print the script, start nothing


def main(cfg: SlurmConfig, words: Sequence[str]) -> None:
    """Gives the script to sbatch."""
    job.hand_over(script(cfg, words), ["sbatch"], cfg.dry_run)


def script(cfg: SlurmConfig, words: Sequence[str]) -> str:
    """The batch script. Raises ConfigError for settings that sbatch would misread."""
    check(cfg)
    options = [
        f"--job-name={cfg.name}",
        f"--nodes={cfg.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={cfg.cpus}",
        f"--time={cfg.time}",
        f"--signal=TERM@{cfg.notice}",  # to the tasks alone: this script learns of it by their status
        "--requeue",
        "--open-mode=append",
        f"--output={cfg.name}.%j.log",
    ]
    options += [f"--gpus-per-node={cfg.gpus}"] if cfg.gpus else []
    options += [f"--partition={cfg.partition}"] if cfg.partition else []
    options += [f"--account={cfg.account}"] if cfg.account else []
    head = "\n".join(f"#SBATCH {option}" for option in (*options, *cfg.options))
    line = shlex.join([cfg.jaxrec, *words])
    again = [status for status in job.AGAIN if status != job.PREEMPTED]
    return f"""#!/bin/bash
{head}
set -u
{cfg.setup + chr(10) if cfg.setup else ""}stopped=""
trap 'stopped=yes' TERM  # scancel

for attempt in $(seq 0 {cfg.restarts}); do
    srun --kill-on-bad-exit=0 --wait=120 {line}
    status=$?
    [ -z "$stopped" ] || exit "$status"
    case "$status" in
        0) exit 0 ;;
        {job.PREEMPTED})  # saved before the time was over, or before a preemption
            scontrol requeue "$SLURM_JOB_ID"
            exit "$status" ;;
        {job.pattern(again)}) echo "attempt $attempt ended with status $status: again" >&2 ;;
        *) exit "$status" ;;
    esac
    sleep 10
done
echo "given up after {cfg.restarts} restarts" >&2
exit "$status"
"""


def check(cfg: SlurmConfig) -> None:
    """Raises ConfigError for settings that sbatch would misread."""
    if not re.fullmatch(r"\d+(-\d+)?", cfg.nodes) or int(cfg.nodes.split("-")[0]) < 1:
        raise ConfigError(
            f"--nodes {cfg.nodes}: a number of nodes, or the fewest and the most as 2-4"
        )
    fewest, _, most = cfg.nodes.partition("-")
    if most and int(most) < int(fewest):
        raise ConfigError(f"--nodes {cfg.nodes}: the fewest come first")
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", cfg.time):
        raise ConfigError(f"--time {cfg.time}: minutes, H:MM:SS or DAYS-HH:MM:SS")
    if cfg.gpus < 0 or cfg.cpus < 1 or cfg.restarts < 0 or cfg.notice < 1:
        raise ConfigError(
            f"gpus {cfg.gpus}, cpus {cfg.cpus}, restarts {cfg.restarts}, notice {cfg.notice}: not less than nothing"
        )
    for word in (cfg.name, cfg.partition, cfg.account, *cfg.options):
        if re.search(r"[\s#]", word):
            raise ConfigError(f"{word!r} can't stand in a line of #SBATCH: it has a space or a #")


if __name__ == "__main__":
    job.run(main, SlurmConfig, __doc__)

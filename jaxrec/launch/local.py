"""Start a job of several processes on this machine, and again when one of them dies: a cluster, tried at home.

    jaxrec launch local --processes 2 -- train pretrain backbone_sample --out runs/two --loop.save-every 50

Also for one process on one machine that should come back after a stall (`--loop.hang`) or a kill.
"""

import dataclasses
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence

from jaxrec.config import ConfigError
from jaxrec.launch import job


@dataclasses.dataclass(frozen=True)
class LocalConfig:
    """Processes of this machine."""

    processes: int = 2
    devices: int = 0  # simulated CPU devices a process; 0: what there is
    restarts: int = 20
    pause: float = 5.0  # seconds before a restart
    dry_run: bool = False  # print the commands, start nothing


def main(cfg: LocalConfig, words: Sequence[str]) -> None:
    """Runs the processes to their common end; ends with the status of the one that failed."""
    if cfg.processes < 1 or cfg.devices < 0 or cfg.restarts < 0 or cfg.pause < 0:
        raise ConfigError(f"a job has a process, and nothing of it is negative: {cfg}")
    command = [sys.executable, "-m", "jaxrec", *words]
    if cfg.dry_run:
        for one in environments(cfg, job.PORT):
            print(shlex.join(["env", *(f"{k}={v}" for k, v in one.items()), *command]))
        print("dry run: nothing was started", file=sys.stderr)
        return
    status = supervise(cfg, command)
    if status:
        raise SystemExit(status)


def environments(cfg: LocalConfig, port: int) -> list[dict[str, str]]:
    """What each process's environment has beside this one's."""
    fake = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={cfg.devices}"}
    shared = fake if cfg.devices else {}
    if cfg.processes == 1:
        return [shared]
    place = {"JAXREC_COORDINATOR": f"localhost:{port}", "JAXREC_PROCESSES": str(cfg.processes)}
    return [{**shared, **place, "JAXREC_PROCESS": str(i)} for i in range(cfg.processes)]


def supervise(cfg: LocalConfig, command: Sequence[str]) -> int:
    """Runs a command in all processes, and again as long as that helps; the status of the end."""
    stopped = threading.Event()
    running: list[subprocess.Popen] = []

    def stop(number: int, frame: object) -> None:
        stopped.set()
        for one in running:
            one.send_signal(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for attempt in range(cfg.restarts + 1):
            running[:] = [
                subprocess.Popen(command, env=os.environ | own)
                for own in environments(cfg, _free_port())
            ]
            status = deciding([_status(one) for one in running])
            if status not in job.AGAIN or stopped.is_set():
                return status
            print(f"attempt {attempt} ended with status {status}: again", file=sys.stderr)
            stopped.wait(cfg.pause)
        print(f"given up after {cfg.restarts} restarts", file=sys.stderr)
        return status
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for one in running:
            one.kill()


def deciding(statuses: Sequence[int]) -> int:
    """The status that says what to do: a mistake before a loss, a loss before a good end."""
    mistakes = [status for status in statuses if status and status not in job.AGAIN]
    return next(iter(mistakes), max(statuses))


def _status(process: subprocess.Popen) -> int:
    """Waits for the end; a signal's status is that of the shell."""
    code = process.wait()
    return 128 - code if code < 0 else code


def _free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


if __name__ == "__main__":
    job.run(main, LocalConfig, __doc__)

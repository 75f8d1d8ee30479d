"""Real processes that talk over loopback train as one does, end together, and go on in other numbers."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxrec.log import read_metrics

ROOT = Path(__file__).resolve().parent.parent


def start(
    out: Path, process: int | None, port: int, *flags: str, count: int = 2, fake: int = 0
) -> subprocess.Popen:
    devices = f"--xla_force_host_platform_device_count={fake}" if fake else ""
    env = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": devices}
    if process is not None:
        env |= {
            "JAXREC_COORDINATOR": f"localhost:{port}",
            "JAXREC_PROCESSES": str(count),
            "JAXREC_PROCESS": str(process),
        }
    command = [sys.executable, str(ROOT / "tests" / "tiny_training.py"), str(out), *flags]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def free_port() -> int:
    with socket.socket() as some:
        some.bind(("localhost", 0))
        return some.getsockname()[1]


def job(out: Path, *flags: str, count: int = 2, fake: int = 0) -> list[subprocess.Popen]:
    port = free_port()
    return [start(out, i, port, *flags, count=count, fake=fake) for i in range(count)]


def finished(processes: list[subprocess.Popen], status: int = 0) -> list[str]:
    try:
        said = [process.communicate(timeout=180)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [status] * len(processes), "\n\n".join(
        said
    )
    return said


def until_it_trains(out: Path, processes: list[subprocess.Popen], steps: int = 10) -> None:
    """Waits for so many logged steps."""
    metrics = out / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < steps:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.2)


def lose(processes: list[subprocess.Popen], which: int, how: int = signal.SIGKILL) -> list[str]:
    """Sends one of them a signal that it can't answer; what the others say, who all end with status 75."""
    processes[which].send_signal(how)
    try:
        others = [one for one in processes if one is not processes[which]]
        said = [one.communicate(timeout=60)[0] for one in others]
    finally:
        for one in processes:
            one.kill()
            one.communicate()
    assert [one.returncode for one in others] == [75] * len(others), "\n\n".join(said)
    for text in said:
        (line,) = [line for line in text.splitlines() if line.startswith("error:")]
        assert f"lost process {which} (" in line and "the same command goes on" in line
        assert "Traceback" not in text and "terminate called" not in text
    return said


def close(a: Path, b: Path) -> None:
    one, other = np.load(a / "final.npz"), np.load(b / "final.npz")
    for name in one.files:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-6)


def test_two_processes_equal_one_and_resume_as_copies_with_microbatches(tmp_path):
    """Split weights first; then from their checkpoint as whole copies: another mesh, and other hosts' rows."""
    whole = start(tmp_path / "one", None, 0, "--steps", "10")
    finished(job(tmp_path / "two", "--fsdp", "2", "--steps", "6", "--save-every", "3"))
    finished(job(tmp_path / "two", "--fsdp", "1", "--accum", "2", "--steps", "10"))
    finished([whole])
    close(tmp_path / "one", tmp_path / "two")


def test_sigterm_to_one_of_two_saves_one_step_and_ends_both(tmp_path):
    processes = job(tmp_path, "--steps", "2000", "--slow", "0.02", "--fsdp", "2")
    try:
        until_it_trains(tmp_path, processes)
        processes[1].send_signal(signal.SIGTERM)
    finally:
        said = finished(processes, 143)
    assert "SIGTERM: saved step" in said[0]
    saved = [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()]
    assert len(saved) == 1


def test_one_of_two_is_killed_and_the_other_goes_on_alone(tmp_path):
    flags = ("--save-every", "5", "--silence", "4")
    processes = job(tmp_path, *flags, "--steps", "2000", "--slow", "0.05")
    until_it_trains(tmp_path, processes, 12)
    (said,) = lose(processes, 1)
    whole = int(re.search(r"step (\d+) is saved whole", said)[1])
    said = finished([start(tmp_path, None, 0, *flags, "--steps", str(whole + 3))])
    assert f"resumed at step {whole} of {whole + 3}" in said[0]
    assert "cut into 2 microbatches instead of 1, 8 rows a device at once" in said[0]
    rows = [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert rows == list(range(1, whole + 4))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "how"), [(0, signal.SIGKILL), (2, signal.SIGSTOP), (0, signal.SIGSTOP)]
)
def test_one_of_four_is_killed_or_frozen_and_the_others_end(tmp_path, which, how):
    """The coordinator, a frozen host, and a frozen coordinator."""
    processes = job(
        tmp_path, "--steps", "5000", "--slow", "0.05", "--save-every", "5", "--silence", "16", count=4
    )  # fmt: skip
    until_it_trains(tmp_path, processes, 12)
    lose(processes, which, how)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [16, 24])
def test_a_run_of_four_goes_on_with_three_two_and_eight_and_learns_the_same(tmp_path, rows):
    """16 rows can't be dealt out among three: two of the three go on. The losses are those of an undisturbed run."""
    many, size = tmp_path / "many", ("--rows", str(rows), "--save-every", "5")
    alone = start(tmp_path / "one", None, 0, *size, "--steps", "60")
    processes = job(many, *size, "--steps", "60", "--slow", "0.1", "--silence", "16", count=4)
    until_it_trains(many, processes, 12)
    lose(processes, 3)
    said = finished(job(many, *size, "--steps", "40", count=3))
    assert all("the first 2 of 3 processes" in text for text in said) == (rows == 16)
    finished(job(many, *size, "--steps", "48"))
    finished([start(many, None, 0, *size, "--steps", "54", fake=8)])
    finished(job(many, *size, "--steps", "60", fake=4))
    finished([alone])
    close(tmp_path / "one", many)  # the place in the data is part of it
    losses = [
        [(row["step"], row["loss"]) for row in read_metrics(out / "metrics.jsonl", "train")]
        for out in (tmp_path / "one", many)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.slow
def test_a_process_that_fails_by_itself_ends_the_others_with_its_status(tmp_path):
    processes = job(tmp_path, "--steps", "5000", "--slow", "0.05", "--fail-at", "10")
    said = finished(processes, 1)
    assert "Traceback" in said[1] and "no such row" in said[1]
    assert "process 1" in said[0] and "OSError: no such row" in said[0]

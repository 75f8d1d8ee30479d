"""Two real processes that talk over loopback train as one does."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


def start(out: Path, process: int | None, port: int, *flags: str) -> subprocess.Popen:
    env = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    if process is not None:
        env |= {
            "JAXREC_COORDINATOR": f"localhost:{port}",
            "JAXREC_PROCESSES": "2",
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


def pair(out: Path, *flags: str) -> list[subprocess.Popen]:
    port = free_port()
    return [start(out, process, port, *flags) for process in (0, 1)]


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


def close(a: Path, b: Path) -> None:
    one, other = np.load(a / "final.npz"), np.load(b / "final.npz")
    for name in one.files:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-6)


def test_two_processes_equal_one_and_resume_as_copies_with_microbatches(tmp_path):
    """Split weights first; then from their checkpoint as whole copies: another mesh, and other hosts' rows."""
    whole = start(tmp_path / "one", None, 0, "--steps", "10")
    finished(pair(tmp_path / "two", "--fsdp", "2", "--steps", "6", "--save-every", "3"))
    finished(pair(tmp_path / "two", "--fsdp", "1", "--accum", "2", "--steps", "10"))
    finished([whole])
    close(tmp_path / "one", tmp_path / "two")


def test_sigterm_to_one_of_two_saves_one_step_and_ends_both(tmp_path):
    processes = pair(tmp_path, "--steps", "2000", "--slow", "0.02", "--fsdp", "2")
    try:
        while (
            not (tmp_path / "metrics.jsonl").exists()
            or (tmp_path / "metrics.jsonl").stat().st_size < 1000
        ):
            assert all(process.poll() is None for process in processes)
        processes[1].send_signal(signal.SIGTERM)
    finally:
        said = finished(processes, 143)
    assert "SIGTERM: saved step" in said[0]
    saved = [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()]
    assert len(saved) == 1

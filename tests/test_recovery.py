"""kill -9 at random steps, again and again: the run that comes through equals the uninterrupted one."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxrec import log

ROOT = Path(__file__).resolve().parent.parent


def start(out: Path, *flags: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "tests" / "tiny_training.py"), str(out), *flags]
    env = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def at_step(out: Path, process: subprocess.Popen, step: int) -> None:
    """Waits until the run has written the numbers of a step."""
    while process.poll() is None:
        path = out / "metrics.jsonl"
        if path.exists() and (rows := log.read_metrics(path)) and rows[-1]["step"] >= step:
            return
        time.sleep(0.005)


def finished(process: subprocess.Popen) -> None:
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said


def equal(a: Path, b: Path) -> None:
    one, other = np.load(a / "final.npz"), np.load(b / "final.npz")
    for name in one.files:
        np.testing.assert_array_equal(one[name], other[name])


def killed_at(tmp_path: Path, steps: list[int]) -> None:
    flags = ["--steps", str(max(steps) + 3), "--save-every", "2", "--eval-every", "3"]
    whole = start(tmp_path / "whole", *flags)
    for step in steps:
        process = start(tmp_path / "killed", *flags, "--slow", "0.02")
        at_step(tmp_path / "killed", process, step)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    finished(start(tmp_path / "killed", *flags))
    finished(whole)
    equal(tmp_path / "whole", tmp_path / "killed")
    rows = log.read_metrics(tmp_path / "killed" / "metrics.jsonl", "train")
    assert [row["step"] for row in rows] == list(range(1, max(steps) + 4))


def test_killed_once(tmp_path):
    killed_at(tmp_path, [5])


@pytest.mark.slow
def test_killed_twice(tmp_path):
    killed_at(tmp_path, [3, 8])


@pytest.mark.slow
def test_killed_ten_times_at_random(tmp_path):
    draw = random.Random(0)
    killed_at(tmp_path, sorted(draw.randint(1, 60) for _ in range(10)))


def test_sigterm_in_a_process_of_its_own(tmp_path):
    process = start(tmp_path, "--steps", "1000", "--slow", "0.02")
    at_step(tmp_path, process, 4)
    process.terminate()
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 143, said
    assert "SIGTERM: saved step" in said
    saved = [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()]
    assert len(saved) == 1 and int(saved[0]) >= 4

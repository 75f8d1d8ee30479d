"""Stores and real processes: one killed while it writes, two that write, two that train and one that goes on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxrec.data import text

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
WORDS = [f"{a} {b}" for a in ("red", "blue", "green", "pink") for b in ("cup", "car", "hat", "bag")]
MODEL = (
    "--model.vocab 290 --model.layers 1 --model.d-model 32 --model.d-ff 48 --model.head-dim 16 --model.heads 2"
    " --model.groups 2 --length 32 --rows 8 --loop.eval-every 0 --loop.no-progress"
).split()


def start(module: str, *words: str, **env: str) -> subprocess.Popen:
    env = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""} | env
    command = [sys.executable, "-m", module, *map(str, words)]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )


def finished(*processes: subprocess.Popen) -> str:
    said = [process.communicate(timeout=400)[0] for process in processes]
    assert not any(process.returncode for process in processes), "\n".join(said)
    return said[0]


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    at = tmp_path_factory.mktemp("processes")
    text.train_tokenizer(WORDS * 3, 290).save(at / "tokenizer.json")
    lines = [json.dumps({"text": f"{n} " + " ".join(WORDS[n % 16 :])}) for n in range(3000)]
    (at / "texts.jsonl").write_text("\n".join(lines) + "\n")
    (at / "held.jsonl").write_text("\n".join(lines[:5]) + "\n")
    return at


def tokenise(at: Path, out: str, *more: str) -> subprocess.Popen:
    how = ("--kind", "texts", "--tokenizer", at / "tokenizer.json", "--length", "32")
    words = (at / "texts.jsonl", *how, "--documents", "20", "--out", at / out, *more)
    return start("jaxrec.data.tokenise", *words)


def manifest(folder: Path) -> dict:
    return json.loads((folder / "store.json").read_text())


def test_killed_while_it_writes_it_goes_on_with_what_is_missing(at):
    finished(tokenise(at, "whole", "--workers", "2"))
    killed = tokenise(at, "killed")
    records = at / "killed" / "shards"
    while not records.is_dir() or len(list(records.iterdir())) < 5:
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    done = sorted(records.glob("*.json"))
    assert 5 <= len(done) < 150 and not (at / "killed" / "store.json").exists()
    times = [path.stat().st_mtime_ns for path in done]
    finished(tokenise(at, "killed"))
    assert [path.stat().st_mtime_ns for path in done] == times
    assert manifest(at / "killed")["sha256"] == manifest(at / "whole")["sha256"]
    assert len(manifest(at / "killed")["shards"]) == 150


def train(at: Path, out: str, steps: int, processes: int = 1) -> None:
    words = ("--texts", at / "whole", "--held", at / "held.jsonl", "--out", at / out, *MODEL)
    words = (*words, "--loop.steps", str(steps))
    if processes == 1:
        finished(start("jaxrec.train.pretrain", *words))
        return
    with socket.socket() as some:
        some.bind(("localhost", 0))
        address = f"localhost:{some.getsockname()[1]}"
    jobs = [
        start(
            "jaxrec.train.pretrain", *words, JAXREC_COORDINATOR=address,
            JAXREC_PROCESSES=str(processes), JAXREC_PROCESS=str(n),
        )
        for n in range(processes)
    ]  # fmt: skip
    try:
        finished(*jobs)
    finally:
        for job in jobs:
            job.kill()


def test_two_processes_train_on_a_store_as_one_does_and_one_goes_on(at):
    if not (at / "whole").exists():
        finished(tokenise(at, "whole"))
    train(at, "one", 6)
    train(at, "two", 3, processes=2)
    train(at, "two", 6)
    one, two = (load_file(at / out / "model" / "model.safetensors") for out in ("one", "two"))
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-4, atol=1e-6)

"""Jobs for the tests of `map_shards`: workers import them by name."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.config import RunError


def square(x: int) -> int:
    return x * x


def draw(x: int) -> dict[str, np.ndarray]:
    """Numbers of the shard's own seed, and as long as a real shard takes."""
    time.sleep(0.1)
    return {"drawn": np.random.default_rng(x).standard_normal(4)}


def counter() -> dict[str, int]:
    return {"made": 0, "pid": os.getpid()}


def count(kept: dict[str, int], x: int) -> tuple[int, int, int]:
    kept["made"] += 1
    return x, kept["pid"], kept["made"]


def raising(x: int) -> Any:
    if x == 2:
        raise KeyError("colour")
    if x == 5:
        raise RunError("row 7 has no title")
    return x


def no_setup() -> None:
    raise RunError("the weights are not installed")


def killed_once(marks: str, x: int) -> dict[str, np.ndarray]:
    """As `draw`, but the worker that is the first at shard 3 dies, as under `kill -9`."""
    mark = Path(marks) / "worker"
    if x == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(x)


def node_killed_once(marks: str, head: str, x: int) -> dict[str, np.ndarray]:
    """As `draw`, but the second node's Ray daemon dies in the midst of a shard; until then the head's worker waits."""
    import ray

    mark = Path(marks) / "node"
    if not mark.exists() and ray.get_runtime_context().get_node_id() != head:
        mark.touch()
        os.kill(int(os.environ["RAY_RAYLET_PID"]), signal.SIGKILL)
        time.sleep(60)
    until = time.monotonic() + 60
    while not mark.exists() and time.monotonic() < until:
        time.sleep(0.2)
    return draw(x)


def deadly(x: int) -> int:
    if x == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def settings(x: int) -> dict[str, str | None]:
    return {
        name: os.environ.get(name)
        for name in ("OMP_NUM_THREADS", "NPROC", "RAY_USAGE_STATS_ENABLED")
    }


def chatty(x: int) -> int:
    print(f"half of {x} is left out")
    return x // 2


def mortal_encoder(marks: str) -> Any:
    """MiniLM, whose first worker dies in the midst of its second block."""
    from jaxrec.models.text.sentence import SentenceEncoder

    encode, mark = SentenceEncoder.load(), Path(marks) / "encoder"
    calls = []

    def embed(texts: list[str]) -> np.ndarray:
        calls.append(len(texts))
        if len(calls) == 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(texts)

    return embed

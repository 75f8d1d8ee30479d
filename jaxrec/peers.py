"""Floor 1: what the processes of a job tell each other of themselves, and how all end when one of them is gone.

Each process says every few seconds, in the key-value store of JAX's coordination service, at which step it is and what
it does there. Whether a process lives is judged by that service's own heartbeats, which need no Python: what they
report arrives here (`Peers.lost`), and this process ends at once with one line that names the lost host, the step, and
the command that goes on. A process that fails by itself says so, and the others end with its exit status.

Exit statuses of a job that went wrong without anything being wrong with it, so that a launcher may begin it again:

    75   another process was lost (EX_TEMPFAIL of sysexits.h)
    76   this process stood still for too long (`training/watchdog.py`)
    143  SIGTERM came and the state was saved (`training/loop.py`)

Nothing here knows jax; the client of the service is an argument.
"""

import ctypes
import json
import os
import re
import shlex
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

LOST, STALLED = 75, 76
TRAINING = "training"  # the phase in which processes wait for each other
_BEATS, _FAILED = "jaxrec/beats", "jaxrec/failed"
_ALL_AT_ONCE = 32  # processes whose words are read at each beat; of a larger job, less often
# How runtimes speak of a peer that is gone, in whatever exception it comes up.
_PEER_GONE = re.compile(
    r"gloo|nccl|UNAVAILABLE|DEADLINE_EXCEEDED|coordination service|connection (closed|reset)"
    r"|barrier",
    re.IGNORECASE,
)


@runtime_checkable
class KeyValues(Protocol):
    """What is used of `jaxlib`'s DistributedRuntimeClient."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        """Stores a text."""

    def key_value_dir_get(self, key: str) -> Sequence[tuple[str, str]]:
        """All (key, text) below a key."""


@dataclass(frozen=True)
class Beat:
    """What a process said of itself last.

    host: its name. step: of training. phase: what it does there. since: seconds for which it had been doing that.
    seen: this process's clock when the word was new.
    """

    host: str
    step: int
    phase: str
    since: float
    seen: float


class Peers:
    """The other processes of this job: a thread tells them of this one, and reads what they say.

    client: of the coordination service, which process 0 holds at `coordinator` ("host:port").
    index: of this process, of `count`. silence: seconds without a heartbeat after which a process counts as lost.
    clock, end: seconds that only grow, and what ends the process with a status; other ones in tests.
    """

    def __init__(
        self,
        client: KeyValues,
        index: int,
        count: int,
        *,
        silence: float = 30.0,
        coordinator: str = "",
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[int], Any] = os._exit,
    ):
        self.client, self.index, self.count = client, index, count
        self.silence, self.coordinator, self.clock, self._end = silence, coordinator, clock, end
        self.host, self.period = socket.gethostname(), max(silence / 6, 0.5)
        self.beats: dict[int, Beat] = {}
        self.folder: Path | None = None  # of the checkpoints that a run goes on from
        self._now, self._entered = (0, "start"), clock()
        self._counts: dict[int, int] = {}  # how often each process has spoken
        self._spoken = 0
        self._asked: float | None = None  # since when the service owes an answer
        self._failed: int | None = None  # the status with which this process ends
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="peers", daemon=True)

    def begin(self) -> None:
        """Starts the thread."""
        self.beat()
        self._thread.start()

    def note(self, step: int, phase: str) -> None:
        """What this process is doing from now on; the others read it at its next word."""
        self._now, self._entered = (step, phase), self.clock()

    # ---------------------------------------------------------------------------------- words

    def beat(self) -> None:
        """Says what this process does, and reads what the others said. Ends this process if another one failed."""
        (step, phase), now = self._now, self.clock()
        self._spoken += 1
        mine = {
            "count": self._spoken,
            "host": self.host,
            "step": step,
            "phase": phase,
            "since": round(now - self._entered, 1),
        }
        self._asked = now if self._asked is None else self._asked
        try:
            self.client.key_value_set(f"{_BEATS}/{self.index}", json.dumps(mine), True)
            failed = self.client.key_value_dir_get(_FAILED)
            if self._spoken % max(self.count // _ALL_AT_ONCE, 1) == 0 or not self.beats:
                self._read(self.client.key_value_dir_get(_BEATS))
        except (
            Exception
        ):  # jaxlib's, of many kinds: how long the service owes an answer is what counts
            return
        self._asked = None
        others = {int(key.rsplit("/", 1)[-1]): json.loads(text) for key, text in failed}
        for index, failure in sorted(others.items()):
            if index != self.index and self._failed is None:
                self._leave(
                    f"process {index} ({failure['host']}) {failure['text']}. This is process {self.index} "
                    f"({self.host}) {self._place()}; exit status {failure['status']}",
                    failure["status"],
                    2 * self.period,
                )

    def _read(self, words: Sequence[tuple[str, str]]) -> None:
        now = self.clock()
        for key, text in words:
            index, word = int(key.rsplit("/", 1)[-1]), json.loads(text)
            if self._counts.get(index) != word["count"]:
                self._counts[index] = word.pop("count")
                self.beats[index] = Beat(seen=now, **word)

    def _run(self) -> None:
        while not self._stop.wait(self.period):
            self.beat()

    def behind(self) -> str:
        """Whom this process seems to wait for: "process 3 (host) is at step 56, reading data for 40 s"; "" if nobody.

        That is who made fewer steps, or does something else than training at the same step, or is silent. Words from
        before this process began to wait say nothing of now.
        """
        (step, phase), now = self._now, self.clock()
        here, waits = (step, phase == TRAINING), []
        for i, beat in sorted(self.beats.items()):
            age, where = now - beat.seen, f"process {i} ({beat.host}) is"
            if i == self.index:
                continue
            if age > 2 * self.period + 1:
                waits.append(
                    f"{where} silent for {age:.0f} s, last at step {beat.step}, {beat.phase}"
                )
            elif beat.seen >= self._entered and (beat.step, beat.phase == TRAINING) < here:
                waits.append(
                    f"{where} at step {beat.step}, {beat.phase} for {beat.since + age:.0f} s"
                )
        return ", ".join(waits[:4]) + (f" and {len(waits) - 4} more" if waits[4:] else "")

    # ---------------------------------------------------------------------------------- ends

    def lost(self, *report: Any) -> None:
        """What the coordination service calls (or its failure causes) when a process is gone: ends this one."""
        silent = self.missing()
        for _ in range(3):  # a process that has just been killed may hold its port a moment longer
            if silent:
                break
            time.sleep(1)
            silent = self.missing()
        self._leave(self.loss(silent or self.likeliest()), LOST, 2)

    def missing(self) -> list[int]:
        """The processes that are silent, as far as this one can know; [] if it can't tell."""
        now, enough = self.clock(), self.silence / 2
        if self.index != 0 and self._asked is not None and now - self._asked > enough:
            return [0]  # and nobody else's word has come either
        ages = {i: now - beat.seen for i, beat in sorted(self.beats.items()) if i != self.index}
        if silent := [i for i, age in ages.items() if age > enough]:
            return silent
        return [0] if self.index != 0 and self.coordinator and unreachable(self.coordinator) else []

    def likeliest(self) -> list[int]:
        """Whom the service must mean when it reports a loss and nobody is silent for long: who was so longer by far.

        Nothing is asked of the service here: its client holds its lock while it reports.
        """
        now = self.clock()
        ages = sorted((now - beat.seen, i) for i, beat in self.beats.items() if i != self.index)
        clear = len(ages) == 1 or (len(ages) > 1 and ages[-1][0] > 2 * ages[-2][0] + 1)
        return [ages[-1][1]] if clear else []

    def loss(self, silent: Sequence[int]) -> str:
        """The line that ends this process when others are lost: who, at which step, and how to go on."""
        who = " and ".join(self._name(i) for i in silent) or (
            "another process, or one was begun twice: which one can't be told from here, see the other logs"
        )
        return (
            f"lost {who}. This is process {self.index} ({self.host}) {self._place()}; {self._saved()}. "
            f"Exit status {LOST}: begin the job again on all hosts, the same command goes on: {command()}"
        )

    def failing(self, error: BaseException, text: str, status: int) -> None:
        """What a process calls that ends with an error of its own: the others hear of it and end too.

        An error that comes of a lost process is not this one's own: then the service's report is awaited, which ends
        this process. error: the exception. text: what is said of it. status: with which this process ends.
        """
        if self._failed is not None:  # another thread ends this process, and has said why
            self._stop.wait(2 * self.period + 10)
            return
        if _PEER_GONE.search(_whole_text(error)):
            self._stop.wait(self.silence + 15)
        self._failed = status
        failure = {"host": self.host, "text": f"ended: {text}"[:500], "status": status}
        try:
            self.client.key_value_set(f"{_FAILED}/{self.index}", json.dumps(failure), True)
        except Exception as refusal:
            print(f"the other processes could not be told: {refusal}", file=sys.stderr)

    def close(self) -> None:
        """Ends the thread. After `failing` it ends the process as well: the others won't come to a common end."""
        if self._failed is not None:
            if self.index == 0:  # the service ends with this process: first the others read why
                time.sleep(2 * self.period)
            _flush()
            self._end(self._failed)
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(self.period)

    def stalled(self, line: str) -> None:
        """Ends this process, which stood still too long, and with it the others."""
        self.failing(TimeoutError(), line, STALLED)
        self._leave(line, STALLED, 2 * self.period)

    def _leave(self, line: str, status: int, linger: float) -> None:
        if not self._lock.acquire(blocking=False):
            time.sleep(60)  # another thread is ending the process
        if self.index == 0:  # the others hear why first: they must not find their coordinator gone
            time.sleep(linger)
        leave(line, status, self._end)

    def _name(self, index: int) -> str:
        beat = self.beats.get(index)
        if beat is None:
            return f"process {index} (never heard of)"
        return (
            f"process {index} ({beat.host}), last heard of at step {beat.step} ({beat.phase}) "
            f"{self.clock() - beat.seen:.0f} s ago"
        )

    def _place(self) -> str:
        step, phase = self._now
        return f"at step {step} ({phase})"

    def _saved(self) -> str:
        return saved_in(self.folder)


def leave(line: str, status: int, end: Callable[[int], Any] = os._exit) -> None:
    """Ends the process with one line and a status, from whatever thread, without waiting for anybody."""
    _flush()
    sys.stderr.write(f"\nerror: {' '.join(line.split())}\n")
    _flush()
    end(status)


def saved_in(folder: Path | None) -> str:
    """What a run that ends now can go on from: "step 40 is saved whole in runs/x/checkpoints"."""
    steps = [int(p.name) for p in folder.glob("*") if p.name.isdigit()] if folder else []
    return f"step {max(steps)} is saved whole in {folder}" if steps else "nothing was saved yet"


def command() -> str:
    """How this process was begun, as one would type it."""
    words = list(sys.orig_argv)
    return shlex.join([Path(words[0]).name, *words[1:]]) if words else ""


def unreachable(address: str, timeout: float = 2.0) -> str:
    """Why nothing answers at "host:port" ("" if something does)."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=timeout).close()
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__
    return ""


def on_termination(end: Callable[[], None]) -> Any:
    """Calls `end` where C++ would end this process by std::terminate; gives what must be kept as long as that holds.

    The coordination service's client reports a lost process to a callback, whose argument (a C++ status) jaxlib cannot
    hand to Python: the call fails, outside of any Python frame, and the C++ runtime ends the process. None where the
    runtime has no such place; then jaxlib's own message and abort stay.
    """
    handler = ctypes.CFUNCTYPE(None)(end)
    try:
        runtime = ctypes.CDLL("libc++.1.dylib" if sys.platform == "darwin" else "libstdc++.so.6")
        place = runtime._ZSt13set_terminatePFvvE
    except (OSError, AttributeError):
        return None
    place.restype, place.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    place(ctypes.cast(handler, ctypes.c_void_p))
    return handler


def _whole_text(error: BaseException | None) -> str:
    """The messages of an exception and of what caused it."""
    texts = []
    while error is not None and len(texts) < 8:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return " ".join(texts)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # a closed pipe must not keep the process alive
            pass


_current: Peers | None = None


def current() -> Peers | None:
    """The peers of this process, None for a process that is alone."""
    return _current


def use(peers: Peers | None) -> None:
    """Makes them the ones that `current` gives."""
    global _current
    _current = peers

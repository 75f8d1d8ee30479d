"""Floor 1: the processes of one job: how they find each other, wait for each other, and keep compiled programs."""

import atexit
import contextlib
import dataclasses
import functools
import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
from jax._src import distributed  # the state that `jax.distributed.initialize` fills

from jaxrec import config as configs
from jaxrec import peers
from jaxrec.config import RunError
from jaxrec.files import content_hash

_LAST_OUT = 3600  # seconds that a finished process waits for one that still writes
_FEWER = "JAXREC_FEWER"  # "host:port count index" of a job that was begun anew with fewer processes
_kept: Any = None  # the handler of terminations, which C++ holds by its address


class HostsError(RunError, ValueError):
    """Processes that cannot form one job."""


class NotTogether(HostsError):
    """Processes that did not come together this time: a host may still be starting, or an old process still ending."""

    status = peers.LOST


@dataclasses.dataclass(frozen=True)
class HostsConfig:
    """How processes find each other. All None: as SLURM, the TPU or the environment says, or one process.

    The environment's form: JAXREC_COORDINATOR=host:port, JAXREC_PROCESSES=n, JAXREC_PROCESS=i.
    """

    coordinator: str | None = None  # host:port of process 0
    processes: int | None = None
    process: int | None = None
    wait: int = (
        300  # seconds at the start for the coordinator to answer and for all the others to come
    )
    silence: int = (
        30  # seconds without a sign of life after which a process counts as lost and all others end
    )


def start(config: HostsConfig | None = None) -> None:
    """Joins the other processes of the job, if there are any; call it before anything else touches a device.

    Explicit config first, then JAXREC_* variables, then what JAX recognises by itself (SLURM, a TPU slice). From here
    on compiled programs are kept (`keep_programs`), and a process that is lost ends all the others (`peers`).
    Raises HostsError where the processes do not come together.
    """
    keep_programs()
    if peers.current() is not None:  # a program of several stages
        return
    config = config or HostsConfig()
    env = os.environ
    if fewer := env.get(_FEWER):
        address, count, index = fewer.split()
        config = dataclasses.replace(
            config, coordinator=address, processes=int(count), process=int(index)
        )
    coordinator = config.coordinator or env.get("JAXREC_COORDINATOR")
    if coordinator:
        count = _number(config.processes, "JAXREC_PROCESSES")
        index = _number(config.process, "JAXREC_PROCESS")
        if not 0 <= index < count:
            raise HostsError(f"process {index} of {count}: it must lie in 0..{count - 1}")
        _await(coordinator, index, config.wait)
        _join(config, coordinator, count, index)
    elif _slurm_step(env) or "," in env.get("TPU_WORKER_HOSTNAMES", ""):
        _join(config)


def _await(coordinator: str, index: int, wait: int) -> None:
    """Until the coordinator's place can be used: taken by process 0, reached by the others. Raises HostsError."""
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise HostsError(f"the coordinator {coordinator!r} is not of the form host:port")
    if index == 0:
        try:
            socket.create_server(("", int(port))).close()
        except OSError as error:
            raise HostsError(
                f"process 0 cannot be the coordinator at {coordinator}: {error.strerror}; name another port"
            ) from error
        return
    until, pause = time.monotonic() + wait, 0.25
    while reason := peers.unreachable(coordinator):
        if time.monotonic() + pause > until:
            raise NotTogether(
                f"process {index}: no coordinator answers at {coordinator} within {wait} s ({reason}); is process 0 "
                "running there? --hosts.wait gives it longer"
            )
        time.sleep(pause)
        pause = min(2 * pause, 2.0)


def _join(
    config: HostsConfig, coordinator: str | None = None, count: int = 0, index: int = 0
) -> None:
    """Makes this process one of the job's. Raises HostsError."""
    # Without it processes on plain CPUs cannot exchange anything; other devices do not read it.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    began, explicit = time.monotonic(), (coordinator, count, index) if coordinator else ()
    try:
        with _losses_reported():
            jax.distributed.initialize(
                *explicit,
                initialization_timeout=config.wait,
                heartbeat_timeout_seconds=config.silence,
                shutdown_timeout_seconds=_LAST_OUT,
            )
    except RuntimeError as error:
        # JAX's farewell at the end of the program would complain at length of what was never begun.
        atexit.register(_quit)
        if not coordinator:
            raise NotTogether(f"the processes of this job do not come together: {error}") from error
        if time.monotonic() - began < config.wait:
            raise NotTogether(
                f"the coordinator at {coordinator} refuses process {index} of {count}: another process has this "
                "index, or the job was begun with another number of processes"
            ) from error
        raise NotTogether(
            f"process {index}: not all of the {count} processes came to {coordinator} within {config.wait} s; "
            "were all of them started, each with an index of its own? --hosts.wait gives them longer"
        ) from error
    state = distributed.global_state
    here = peers.Peers(
        state.client,
        state.process_id,
        state.num_processes,
        silence=config.silence,
        coordinator=state.coordinator_address or "",
    )
    peers.use(here)
    here.begin()
    configs.on_failure.append(here.failing)
    sys.excepthook = _after_word(here, sys.excepthook)
    atexit.register(here.close)  # before JAX's own farewell, which waits for everybody
    _same_count(state, config.silence)


def _quit() -> None:
    sys.stdout.flush()
    os._exit(NotTogether.status)


def _same_count(state: Any, wait: int) -> None:
    """Raises HostsError where this process counts otherwise than process 0."""
    key, mine = "jaxrec/count", str(state.num_processes)
    if state.process_id == 0:
        state.client.key_value_set(key, mine, True)
    elif (said := state.client.blocking_key_value_get(key, wait * 1000)) != mine:
        raise HostsError(
            f"process {state.process_id} was begun as one of {mine}, but process 0 as one of {said}"
        )


@contextlib.contextmanager
def _losses_reported() -> Iterator[None]:
    """While JAX makes its client: a lost process is reported to `peers` instead of ending this one with a C++ trace."""
    # `jax.distributed.initialize` has no argument for it, jaxlib's client has.
    runtime, plain = distributed._jax, distributed._jax.get_distributed_runtime_client
    runtime.get_distributed_runtime_client = functools.partial(
        plain, missed_heartbeat_callback=_lost
    )
    global _kept
    _kept = _kept or peers.on_termination(_lost)
    try:
        yield
    finally:
        runtime.get_distributed_runtime_client = plain


def _lost(*report: Any) -> None:
    if (here := peers.current()) is not None:
        here.lost(*report)


def _after_word(here: peers.Peers, hook: Callable[..., None]) -> Callable[..., None]:
    """An excepthook that tells the other processes first."""

    def say_and_print(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        here.failing(error, f"{kind.__name__}: {error}", 1)
        hook(kind, error, trace)

    return say_and_print


def begin_with(count: int, reason: str) -> NoReturn:
    """Begins the job anew with its first `count` processes, in the processes that there are; the others end, status 0.

    Every process of the job has to call it. reason: said in the log. Raises HostsError where that isn't possible.
    """
    here, state = peers.current(), distributed.global_state
    if here is None or jax.devices()[0].platform == "tpu":
        whole = "a TPU slice runs whole" if here else "there is one process"
        raise HostsError(f"{reason}; {whole}")
    address, index = state.coordinator_address, state.process_id
    said = f"{reason}: the job goes on with the first {count} of {here.count} processes"
    print(f"{said}; this is process {index}", file=sys.stderr, flush=True)
    here.close()
    jax.distributed.shutdown()  # waits for all, so that nobody meets the old coordinator
    if index >= count:
        raise SystemExit(0)
    environment = os.environ | {_FEWER: f"{address} {count} {index}"}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def keep_programs() -> None:
    """Compiled programs are kept between runs, so a script's second start compiles next to nothing.

    They lie in JAX_COMPILATION_CACHE_DIR, or in ~/.cache/jaxrec/programs, apart for each kind of processor, whose
    instructions they hold. JAX_ENABLE_COMPILATION_CACHE=false keeps none.
    """
    if jax.config.jax_compilation_cache_dir is None:
        kind = content_hash(_processor(), digits=12)
        folder = Path("~/.cache/jaxrec/programs").expanduser() / kind
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # JAX keeps nothing that compiles in less than a second, which is most of a small model's programs.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _processor() -> str:
    """What tells one kind of processor from another: its instructions, where the system lists them."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.is_file() else []
    known = [line for line in lines if line.startswith(("flags", "Features"))]
    return known[0] if known else f"{platform.machine()} {platform.processor()}"


def _slurm_step(env: Mapping[str, str]) -> bool:
    """Started by srun as one of several tasks; the script of an sbatch job itself is not."""
    return "SLURM_STEP_NODELIST" in env and int(env.get("SLURM_NTASKS", "1")) > 1


def _number(value: int | None, name: str) -> int:
    if value is None and name not in os.environ:
        raise HostsError(
            f"a coordinator is given, but neither the config nor {name} says the number"
        )
    if value is None and not os.environ[name].isdecimal():
        raise HostsError(f"{name}={os.environ[name]}: not a number")
    return int(os.environ[name]) if value is None else value


def meet(name: str) -> None:
    """Waits until every process of the job is here. One process: does nothing."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)

"""Floor 1: the processes of one job: how they find each other, wait for each other, and keep compiled programs."""

import dataclasses
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import jax

from jaxrec.config import RunError
from jaxrec.files import content_hash


class HostsError(RunError, ValueError):
    """Processes that cannot form one job."""


@dataclasses.dataclass(frozen=True)
class HostsConfig:
    """How processes find each other. All None: as SLURM, the TPU or the environment says, or one process.

    The environment's form: JAXREC_COORDINATOR=host:port, JAXREC_PROCESSES=n, JAXREC_PROCESS=i.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None


def start(config: HostsConfig | None = None) -> None:
    """Joins the other processes of the job, if there are any; call it before anything else touches a device.

    Explicit config first, then JAXREC_* variables, then what JAX recognises by itself (SLURM, a TPU slice). From here
    on compiled programs are kept (`keep_programs`).
    """
    keep_programs()
    config = config or HostsConfig()
    env = os.environ
    coordinator = config.coordinator or env.get("JAXREC_COORDINATOR")
    if coordinator:
        processes = _number(config.processes, "JAXREC_PROCESSES")
        process = _number(config.process, "JAXREC_PROCESS")
        if not 0 <= process < processes:
            raise HostsError(f"process {process} of {processes}: it must lie in 0..{processes - 1}")
        _collectives_for_cpu()
        jax.distributed.initialize(coordinator, processes, process)
    elif _slurm_step(env) or "," in env.get("TPU_WORKER_HOSTNAMES", ""):
        _collectives_for_cpu()
        jax.distributed.initialize()


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
    return int(os.environ[name]) if value is None else value


def _collectives_for_cpu() -> None:
    # Without it processes on plain CPUs cannot exchange anything; other devices do not read it.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")


def meet(name: str) -> None:
    """Waits until every process of the job is here. One process: does nothing."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)

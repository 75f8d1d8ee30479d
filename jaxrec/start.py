"""Floor 0: how a run starts. On a CPU under Linux it gives itself huge pages; standard library only.

A training step's large buffers come and go, and faulting them in page by page costs up to a fifth of the step. glibc
asks the kernel for huge pages (madvise) only if GLIBC_TUNABLES says so when the process begins, so a run that was
begun without is begun once more with it, in the same process: same number, same pipes, same exit status. It happens
before jax is imported and costs some tens of milliseconds. `mallopt` reaches the same speed only by never giving
memory back, at one and a half to two times the peak.
"""

import importlib.util
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

TUNABLE = "glibc.malloc.hugetlb=1"  # since glibc 2.35: madvise(MADV_HUGEPAGE) for what malloc maps
_AGAIN = "JAXREC_BEGUN_AGAIN"  # set from the second beginning until it was told
_PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"
_RUN = re.compile(r"(jaxrec\.)?(train|eval|bench)(\..*)?|jaxrec\.(demo|chat|answer|serve)")


def as_module(package: str) -> None:
    """What a package whose modules are runs calls first: begins anew if `python -m package.module` is being started.

    Does nothing where the package is merely imported, or the run stands under a debugger or a profiler: then it isn't
    Python's own first module.
    """
    if getattr(sys, "argv", [])[:1] == ["-m"]:  # so it reads while -m looks for its module
        module = program_of(sys.orig_argv)
        if module.split(".")[0] == package.split(".")[0] and is_run(module):
            with_huge_pages()


def as_command(module: str) -> None:
    """What the `jaxrec` command calls before it runs a module: begins anew if the command is Python's own program.

    Does nothing where somebody's program or notebook calls the command's `main`.
    """
    if is_run(module) and Path(program_of(sys.orig_argv)).stem == "jaxrec":
        with_huge_pages()


def is_run(module: str) -> bool:
    """Whether a module computes when it is run: a stage, an evaluation, a race, a program of jaxrec."""
    return _RUN.fullmatch(module) is not None


def with_huge_pages() -> None:
    """Begins this process anew with huge pages, unless it has them, cannot have them, or only prints its help."""
    if not sys.executable or {"-h", "--help"} & set(sys.argv) or sys.gettrace() is not None:
        return
    if sys.platform != "linux" or not needs_restart(os.environ, _libc(), _pages(), _accelerator()):
        return
    environment = os.environ | {"GLIBC_TUNABLES": TUNABLE, _AGAIN: "1"}
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    except OSError as error:
        print(f"huge pages: not used, {error.strerror}", file=sys.stderr)


def say_so() -> None:
    """Prints the one line about it, once, where the process was begun anew."""
    if os.environ.pop(_AGAIN, ""):
        print(
            f"huge pages: begun anew with GLIBC_TUNABLES={TUNABLE} (JAXREC_NO_REEXEC=1: never)",
            file=sys.stderr,
        )


def needs_restart(environment: Mapping[str, str], libc: str, pages: str, accelerator: bool) -> bool:
    """Whether a process should begin anew.

    environment: its variables. GLIBC_TUNABLES or JAXREC_NO_REEXEC being set, and another malloc, leave it alone.
    libc: as "glibc 2.36". pages: the kernel's choice for huge pages, as "always [madvise] never"; only madvise gains.
    accelerator: whether jax could compute on something else than the CPU, which JAX_PLATFORMS=cpu rules out.
    """
    if {"GLIBC_TUNABLES", "JAXREC_NO_REEXEC"} & set(environment):
        return False
    if "malloc" in environment.get("LD_PRELOAD", "") or "[madvise]" not in pages:
        return False
    platforms = environment.get("JAX_PLATFORMS", "")
    on_cpu = platforms.split(",")[0] == "cpu" if platforms else not accelerator
    version = re.fullmatch(r"glibc (\d+)\.(\d+).*", libc)
    return bool(on_cpu and version and (int(version[1]), int(version[2])) >= (2, 35))


def program_of(command: Sequence[str]) -> str:
    """What Python was asked to run: the module of `-m`, or a script's path; "" for `-c` and for nothing."""
    words = iter(command[1:])
    for word in words:
        if not word.startswith("-"):
            return word
        if word == "--check-hash-based-pycs":
            next(words, "")
        for at, letter in enumerate(word[1:] if word[:2] != "--" else "", 2):
            if letter in "cmWX":  # they take a value, joined or as the next word
                value = word[at:] or next(words, "")
                if letter in "cm":
                    return value if letter == "m" else ""
                break
    return ""


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):  # another C library
        return ""


def _pages() -> str:
    try:
        return Path(_PAGES).read_text()
    except OSError:
        return ""


def _accelerator() -> bool:
    # libtpu alone is a compiler (the extra `aot`); beside a TPU lie its devices.
    tpu = any(Path("/dev").glob("accel*")) or any(Path("/dev").glob("vfio/[0-9]*"))
    found = lambda name: importlib.util.find_spec(name) is not None
    return found("jax_plugins") or (tpu and found("libtpu"))

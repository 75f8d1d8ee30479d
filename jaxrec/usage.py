"""Floor 1: what a process and its machine use: memory and processor time. Standard library alone."""

import os
import resource
import sys
import time
from pathlib import Path


def peak_mb() -> float:
    """The most memory that this process has held, MiB."""
    try:  # getrusage counts what the parent held when it forked, too
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
    except OSError:
        scale = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, kilobytes here
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def busy_seconds() -> float | None:
    """CPU seconds that all programs of this machine have used, stolen time included; None where it can't be read."""
    try:
        with open("/proc/stat") as file:
            ticks = [int(word) for word in file.readline().split()[1:9]]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = ticks
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """CPU seconds of this process and of those it started and has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime

"""Floor 1: a run on whatever devices there are now: the batch stays, the mesh and the microbatches follow.

    devices, accum = elastic.arrange(cfg.mesh, cfg.rows, cfg.accum, cfg.out)

A run that was begun on four hosts goes on with three, two or eight. The axis that is -1 takes what is there. A device
never holds more rows at once than when the run began (OUT/layout.json), as its memory is no larger than then: fewer
devices make more microbatches. Where the rows of a batch can't be dealt out evenly, fewer devices are used, and the log
says how many stay idle and which batches would use them. The sum of the gradients is that of the whole batch either way
(`training/gradients.py`), so the run stays what it was, up to the order in which floats are added.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxrec import files, processes
from jaxrec import mesh as meshes
from jaxrec.mesh import AXES, MeshConfig, MeshError

_LAYOUT = "layout.json"  # of OUT: how a batch was dealt out when the run began
_log = logging.getLogger(__name__)


def arrange(
    config: MeshConfig,
    rows: int,
    accum: int = 1,
    out: str | Path | None = None,
    devices: Sequence[Any] | None = None,
) -> tuple[Mesh, int]:
    """The mesh over the devices of the job, and into how many microbatches a batch is cut on it.

    Args:
      config: sizes of the axes; only an axis that is -1 follows the devices.
      rows: B, of the whole job.
      accum: microbatches that the run was configured with.
      out: the run's folder, from which a run that goes on knows how it began.
      devices: instead of all of the job.

    A job of several processes whose batch can't be dealt out among them begins anew with fewer of them; the others end
    with status 0. Raises MeshError where no number of devices will do, with batches that would.
    """
    if rows < 1 or accum < 1:
        raise MeshError(f"a batch of {rows} rows in {accum} microbatches: both are at least 1")
    devices = jax.devices() if devices is None else list(devices)
    hosts = len({device.process_index for device in devices})
    sizes = [getattr(config, axis) for axis in AXES]
    if sizes.count(-1) == 1 and 0 < -int(np.prod(sizes)) <= len(devices):
        used = usable(config, rows, len(devices), hosts)
        if not used:
            _leave_hosts(config, rows, len(devices), hosts)
        if used < len(devices):
            _say(
                f"{len(devices)} devices: the mesh ({_text(config)}) and a batch of {rows} rows use {used} of them, "
                f"{len(devices) - used} stay idle; {_batches(config, rows, len(devices))} would use more"
            )
            devices = _of_each(devices, used // hosts)
    mesh = meshes.make(config, devices)  # and says what is wrong with sizes of another kind
    meshes.check_batch(mesh, rows)
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    fitting = microbatches(rows, parts, accum, _share(out, rows, accum))
    if fitting != accum:
        _say(
            f"{mesh.size} devices: a batch of {rows} rows is cut into {fitting} microbatches instead of {accum}, "
            f"{rows // fitting // parts} rows a device at once; the batch and what is learned from it stay the same"
        )
    if out is not None and not _begun(out) and jax.process_index() == 0:
        facts = {"rows": rows, "accum": accum, "rows_a_device": rows // fitting // parts}
        files.write_json(Path(out) / _LAYOUT, facts)
    return mesh, fitting


def usable(config: MeshConfig, rows: int, devices: int, hosts: int = 1) -> int:
    """The largest number of devices, as many of each host, among which a batch can be dealt out; 0 if none.

    config: with one axis that is -1. rows: B. devices: of the job, on so many hosts.
    """
    sizes = {axis: getattr(config, axis) for axis in AXES}
    free = next(axis for axis, size in sizes.items() if size == -1)
    fixed = int(np.prod([size for size in sizes.values() if size != -1]))
    for size in range(devices // fixed, 0, -1):
        parts = int(np.prod([{**sizes, free: size}[axis] for axis in ("data", "fsdp")]))
        if rows % parts == 0 and (size * fixed) % hosts == 0:
            return size * fixed
    return 0


def microbatches(rows: int, parts: int, accum: int, share: int = 0) -> int:
    """Into how many microbatches a batch is cut: `accum`, or the next number that fits.

    rows: B. parts: devices that hold different rows (data x fsdp), which divide B. accum: as configured. share: rows
    that a device holds at once at most; 0 for no limit. Where no larger number fits, a device holds one row at once.
    """
    least = max(accum, -(-rows // (share * parts)) if share else 1)
    each = rows // parts
    return next((count for count in range(least, each + 1) if each % count == 0), each)


def _share(out: str | Path | None, rows: int, accum: int) -> int:
    """Rows that a device held at once when the run in OUT began; 0 where that is unknown or another was asked for."""
    if out is None or not _begun(out):
        return 0
    try:
        began = json.loads((Path(out) / _LAYOUT).read_text())
        same = (began["rows"], began["accum"]) == (rows, accum)
        return int(began["rows_a_device"]) if same else 0
    except (OSError, ValueError, KeyError):
        return 0


def _begun(out: str | Path) -> bool:
    return any(path.name.isdigit() for path in (Path(out) / "checkpoints").glob("*"))


def _leave_hosts(config: MeshConfig, rows: int, devices: int, hosts: int) -> None:
    """Begins the job anew on the most hosts that a batch can be dealt out among. Raises MeshError if there are none."""
    each = devices // hosts
    fewer = next((n for n in range(hosts - 1, 0, -1) if usable(config, rows, n * each, n)), 0)
    reason = (
        f"a batch of {rows} rows can't be dealt out evenly among {devices} devices of {hosts} processes"
        if hosts > 1
        else f"a batch of {rows} rows can't be dealt out on {devices} devices by the mesh {_text(config)}"
    )
    if not fewer:
        raise MeshError(f"{reason}; {_batches(config, rows, devices)} would do")
    processes.begin_with(fewer, f"{reason} ({_batches(config, rows, devices)} can)")


def _batches(config: MeshConfig, rows: int, devices: int) -> str:
    """The nearest batches that use as many devices as the mesh can, in words."""
    fixed = int(np.prod([size for axis in AXES if (size := getattr(config, axis)) != -1]))
    used = devices // fixed * fixed
    parts = used // config.tensor if config.tensor != -1 else config.data * config.fsdp
    below, above = rows // parts * parts, -(-rows // parts) * parts
    return " or ".join(dict.fromkeys(f"{n} rows" for n in (below, above) if n))


def _text(config: MeshConfig) -> str:
    return " x ".join(f"{axis} {getattr(config, axis)}" for axis in AXES)


def _of_each(devices: Sequence[Any], count: int) -> list[Any]:
    """The first `count` devices of each process, in their order."""
    seen: dict[int, int] = {}
    chosen = []
    for device in devices:
        seen[device.process_index] = seen.get(device.process_index, 0) + 1
        if seen[device.process_index] <= count:
            chosen.append(device)
    return chosen


def _say(text: str) -> None:
    if jax.process_index() == 0:
        _log.warning("%s", text)

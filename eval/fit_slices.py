"""What is known of slices before anything is compiled: figures of the chips, shapes of slices, bounds.

Figures from Google's public documentation (docs.cloud.google.com/tpu/docs/v5e, /v5p, /v6e): peak of bf16 products, HBM
and its bandwidth, and "bidirectional inter-chip interconnect bandwidth per chip", of which a chip sends half while it
receives the other half; of the H100 from NVIDIA's data sheet (SXM, dense bf16, NVLink), for the GPUs of one host. All
links count: a collective along one axis of the slice has fewer. So each bound is the least time that a step can take,
and none of them a forecast.
"""

import dataclasses
import difflib
import math
from typing import Any, Literal

from jaxrec.config import RunError
from jaxrec.mesh import MeshConfig, MeshError


class FitError(RunError, ValueError):
    """A row that cannot be asked about: an unknown name, slice or stage, a mesh that does not divide, no compiler."""


_TWO_D = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_THREE_D = ("2x2x1", "2x2x2", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip's published figures, a second where they are rates, and the slices that it is rented in."""

    peak: float  # bf16 operations
    hbm_gb: float
    hbm_rate: float  # bytes
    link_rate: float  # bytes that it sends
    slices: tuple[str, ...]
    compiler: Literal["tpu", "cuda"] = "tpu"


CHIPS = {
    "v5e": Chip(197e12, 16, 819e9, 200e9, _TWO_D),
    "v5p": Chip(459e12, 95, 2765e9, 600e9, _THREE_D),
    "v6e": Chip(918e12, 32, 1640e9, 400e9, _TWO_D),
    "h100": Chip(989e12, 80, 3350e9, 450e9, ("1", "2", "4", "8"), "cuda"),
}
# What XLA asks of a GPU that it compiles for and does not see (stream_executor.GpuTargetConfigProto), of an H100 SXM:
# limits of compute capability 9.0 from NVIDIA's CUDA programming guide, sizes and rates from its data sheet.
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  l2_cache_size: 52428800
  memory_bandwidth: 3350000000000
  device_memory_size: 85899345920
}
platform_name: "CUDA"
runtime_version { major: 12 minor: 9 }
dnn_version_info { major: 9 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def chip_of(topology: str) -> Chip:
    """The chip of "v5e:4x4". Raises FitError for one that is not known, or a slice that nobody rents."""
    name, _, shape = topology.partition(":")
    if name not in CHIPS:
        raise FitError(
            f"topology {topology!r}: no chip is called {name!r}; there are {', '.join(CHIPS)}, as in v5e:4x4"
        )
    if shape not in CHIPS[name].slices:
        known = ", ".join(CHIPS[name].slices)
        raise FitError(f"topology {topology!r}: {name} comes in slices of {known}")
    return CHIPS[name]


def describe(topology: str) -> list[Any]:
    """The slice's devices, described and not there. Raises FitError where its compiler refuses the description."""
    import jax
    from jax.experimental import topologies

    try:
        if chip_of(topology).compiler == "tpu":
            found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
        else:  # hosts x ... x devices of a host
            size = f"1x1x{chips_in(topology)}"
            found = topologies.get_topology_desc(
                topology, platform="cuda", target_config=H100, topology=size
            )
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        said = next((line for line in str(error).splitlines() if line.strip()), "it said nothing")
        raise FitError(f"topology {topology!r}: {said[:300]}") from error
    return list(found.devices)


def chips_in(topology: str) -> int:
    """How many chips "v5e:4x4" has."""
    return math.prod(int(n) for n in topology.partition(":")[2].split("x"))


def mesh_in(topology: str, mesh: MeshConfig) -> tuple[int, int, int]:
    """(data, fsdp, tensor) on the slice. Raises FitError where the sizes do not divide its chips."""
    chip_of(topology)
    chips, sizes = chips_in(topology), [mesh.data, mesh.fsdp, mesh.tensor]
    fixed = math.prod(n for n in sizes if n != -1)
    if sizes.count(-1) > 1 or min(sizes) < -1 or 0 in sizes:
        raise MeshError(f"mesh {sizes}: sizes are positive, and at most one is -1 (all the rest)")
    if chips % fixed or (-1 not in sizes and fixed != chips):
        raise FitError(
            f"a mesh of data {mesh.data}, fsdp {mesh.fsdp}, tensor {mesh.tensor} does not divide the {chips} chips"
            f" of {topology}"
        )
    return tuple(chips // fixed if n == -1 else n for n in sizes)


def nearest(name: str, known: list[str]) -> str:
    """The end of a message: which known name may have been meant, or what there is."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Seconds that a step takes at least, by what limits it, and what they allow."""

    compute: float
    hbm: float
    links: float
    mfu: float  # at most: the method's own operations over what the peak would make in the longest of the three

    @property
    def name(self) -> str:
        """What the step waits for."""
        return max(("compute", "hbm", "links"), key=lambda name: getattr(self, name))

    @property
    def seconds(self) -> float:
        """The longest of the three: all of them overlap in the best case."""
        return max(self.compute, self.hbm, self.links)


def bounds(chip: Chip, chips: int, needed: float, done: float, moved: float, sent: float) -> Bounds:
    """The bounds of a step on a slice.

    Args:
      chip: its figures. chips: how many.
      needed: operations of the method, all chips together. done: the same with what is computed twice.
      moved: bytes between a chip and its HBM. sent: bytes that a chip sends to others.
    """
    compute = done / chips / chip.peak
    hbm, links = moved / chip.hbm_rate, sent / chip.link_rate
    longest = max(compute, hbm, links)
    return Bounds(compute, hbm, links, needed / chips / chip.peak / longest)

"""Floor 1: the device mesh, and where arrays lie on it: weights by path (RULES), activations by name (ACTIVATIONS).

Three axes: `data` (copies of the model), `fsdp` (the batch *and* the weights are split along it), `tensor` (heads and
feed-forward features are split along it). A batch is split over data x fsdp. All axes are of the Auto kind:
the compiler places the collectives, the rules below only say where arrays lie. Activations need rules of their own:
left alone, the compiler keeps the weights of FSDP where they lie and replicates every row on every device instead.
"""

import contextlib
import contextvars
import dataclasses
import itertools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxrec.config import RunError

AXES = ("data", "fsdp", "tensor")
ROWS = P(("data", "fsdp"))  # how every leaf of a batch is split

# (path, how the *last* dimensions are split): the first match holds. What stands before them (the layers' N) stays
# whole; a leaf with fewer dimensions, or without a match, is replicated. As paths are searched and not matched from
# their beginning, the same rules place the optimiser's moments and a teacher inside `frozen`.
Rules = Sequence[tuple[str, P]]
RULES: Rules = (
    (r"(^|/)embed/(table|position|kind)$", P("tensor", "fsdp")),
    (r"(^|/)(attn|cross)/(q|k|v)/kernel$", P("fsdp", "tensor")),
    (r"(^|/)(attn|cross)/(q|k|v)/bias$", P("tensor")),
    (r"(^|/)(attn|cross)/o/kernel$", P("tensor", "fsdp")),
    (r"(^|/)mlp/(gate|up)/kernel$", P("fsdp", "tensor")),
    (r"(^|/)mlp/(gate|up)/bias$", P("tensor")),
    (r"(^|/)mlp/down/kernel$", P("tensor", "fsdp")),
    (r"(^|/)head/kernel$", P("fsdp", "tensor")),
    (r"(^|/)head/bias$", P("tensor")),
    # Quantised kernels (`quant`) lie transposed.
    (r"(^|/)(attn|cross)/(q|k|v)/kernel/(code|scale|outer)_", P("tensor", "fsdp")),
    (r"(^|/)(attn|cross)/o/kernel/(code|scale|outer)_", P("fsdp", "tensor")),
    (r"(^|/)mlp/(gate|up)/kernel/(code|scale|outer)_", P("tensor", "fsdp")),
    (r"(^|/)mlp/down/kernel/(code|scale|outer)_", P("fsdp", "tensor")),
    (r"(^|/)(head/kernel|embed/table)/(code|scale|outer)_", P("tensor", "fsdp")),
    # Large tables: by row.
    (r"(^|/)(users|items|profile|history|audience)/(table|p)(/mu|/nu)?$", P("fsdp", None)),
    (r"(^|/)(users|items|profile)/(table|p)/seen$", P("fsdp")),
    (r"kernel$", P("fsdp", None)),
)
# name -> how an activation is split: its first dimensions, then "...", then its last ones. What stands between, and
# what is named None, is whole on every device; so is a dimension that its axes do not divide. Layers say `put`.
_R, _T = ("data", "fsdp"), "tensor"
ACTIVATIONS: Mapping[str, tuple] = {
    "rows": (_R, ...),  # whatever leads with B: ids, masks, p, z_cls, a layer's Delta of each row
    "residual": (_R, ...),  # [B, L, D], or [T, D] with T = B L
    "hidden": (_R, ..., _T),  # [B, L, F], inside of an MLP
    "heads": (_R, _T, ...),  # [B, G, L or M, K]: queries by key head, keys, values
    "cache": (None, _R, _T, ...),  # [N, B, G, M, K]
    "microbatches": (None, _R, ...),  # [accum, B / accum, ...]
    "scores": (_R, ..., _T),  # [T, V] of a chunk of positions, or logits [B, L, V]
    "classes": (_T, ...),  # [V, D] while scores are made: gathered over fsdp, once
    "sums": (_R, ..., _T),  # [S, D, V]: what each part of the rows adds to the classes' gradient
    "shared": ("data", ...),  # ids of tokens, whole wherever columns of one table are read for them
    "columns": ("data", ..., "fsdp"),  # [B, L, D] read from a table that is split along D
}
_REPORT_BYTES = (
    1 << 22
)  # a leaf this large that cannot be split as its rule says is worth a line in the log


class MeshError(RunError, ValueError):
    """A mesh, a batch or a rule that does not fit the devices."""


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; at most one is -1 and takes the devices that are left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def make(config: MeshConfig | None = None, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh (data, fsdp, tensor) over all devices of the job. Raises MeshError if the sizes do not divide them."""
    config = config or MeshConfig()
    devices = jax.devices() if devices is None else list(devices)
    sizes = [config.data, config.fsdp, config.tensor]
    text = " x ".join(f"{a} {s}" for a, s in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(s == 0 or s < -1 for s in sizes):
        raise MeshError(f"mesh {text}: sizes are positive, and at most one is -1 (all the rest)")
    fixed = int(np.prod([s for s in sizes if s != -1]))
    if -1 in sizes:
        if len(devices) % fixed:
            raise MeshError(f"mesh {text}: {fixed} does not divide the {len(devices)} devices")
        sizes[sizes.index(-1)] = len(devices) // fixed
    elif fixed != len(devices):
        raise MeshError(
            f"mesh {text} takes {fixed} devices, but there are {len(devices)}; set one axis to -1"
        )
    # Mesh, unlike jax.make_mesh, gives Auto axes in every version: a plain x @ w on split operands works.
    return Mesh(_grid(devices, sizes), AXES)


def _grid(devices: Sequence[Any], sizes: Sequence[int]) -> np.ndarray:
    # A whole slice, present or only described (`jax.experimental.topologies`), is laid along its wiring.
    if devices[0].platform == "tpu" and len(devices) == devices[0].client.device_count():
        from jax.experimental import mesh_utils  # elsewhere the plain order is right

        # Without the option an axis that is no product of the slice's own (2 of 4 x 4) is refused.
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return np.asarray(devices).reshape(sizes)


# ------------------------------------------------------------------------------------------ parameters


def path_of(keys: Sequence[Any]) -> str:
    """A jax key path as "stack_0/attn/q/kernel"."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in keys)


def spec_for(mesh: Mesh, path: str, shape: Sequence[int], rules: Rules = RULES) -> P:
    """The split of one leaf. A dimension that its axis does not divide stays whole (said in the log if it is large).

    mesh: the devices. path: of the leaf. shape: its sizes. rules: patterns of paths with their splits, the first that
    fits.
    """
    spec = next((spec for pattern, spec in rules if re.search(pattern, path)), P())
    if len(shape) < len(spec):
        return P()
    whole = len(shape) - len(spec)
    fitted = [None] * whole
    for size, axes in zip(shape[whole:], spec, strict=True):
        parts = int(
            np.prod([mesh.shape[a] for a in ((axes,) if isinstance(axes, str) else axes or ())])
        )
        if size % parts and int(np.prod(shape)) * 4 >= _REPORT_BYTES:
            logging.getLogger(__name__).warning(
                "%s %s: %d is not divisible by %s=%d, so that dimension is replicated",
                path,
                shape,
                size,
                axes,
                parts,
            )
        fitted.append(axes if parts > 1 and size % parts == 0 else None)
    while fitted and fitted[-1] is None:
        fitted.pop()
    return P(*fitted)


def shardings(mesh: Mesh, tree: Any, rules: Rules = RULES) -> Any:
    """A NamedSharding for every leaf (arrays or ShapeDtypeStructs) of a tree."""
    return jax.tree_util.tree_map_with_path(
        lambda keys, leaf: NamedSharding(
            mesh, spec_for(mesh, path_of(keys), np.shape(leaf), rules)
        ),
        tree,
    )


def place(mesh: Mesh, tree: Any, rules: Rules = RULES) -> Any:
    """Puts a tree of whole arrays (every process holds the same) onto the mesh by the rules.

    Arrays that already lie there are moved only if their layout differs. Of a tree of shapes (`jax.ShapeDtypeStruct`)
    it gives the shapes, which then know where they lie: enough to compile for.
    """
    layout = shardings(mesh, tree, rules)
    if is_abstract(tree):
        return jax.tree.map(_lying, tree, layout)
    if jax.process_count() == 1:
        return jax.device_put(tree, layout)

    def one(leaf: Any, at: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, at)
        whole = np.asarray(leaf)  # each process cuts out its own part: nothing is sent or compared
        return jax.make_array_from_callback(whole.shape, at, lambda index: whole[index])

    return jax.tree.map(one, tree, layout)


def is_abstract(tree: Any) -> bool:
    """Whether the leaves of a tree are shapes alone."""
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree))


def _lying(leaf: Any, at: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at)


def settle(mesh: Mesh, tree: Any, rules: Rules = RULES) -> Any:
    """The tree itself if all of it lies on the mesh already, in whatever layout; else placed by the rules."""
    # Frozen weights may lie in a layout that serves rollouts too; it is kept, whatever the rules would say.
    devices = set(mesh.devices.flat)
    there = lambda leaf: isinstance(leaf, jax.Array) and leaf.sharding.device_set == devices
    return tree if all(map(there, jax.tree.leaves(tree))) else place(mesh, tree, rules)


def sharded_init(
    mesh: Mesh, make_params: Callable[..., Any], *args: Any, rules: Rules = RULES
) -> Any:
    """Runs an initialiser so that every leaf is made where it will lie; no device ever holds the whole."""
    layout = shardings(mesh, jax.eval_shape(make_params, *args), rules)
    return jax.jit(make_params, out_shardings=layout)(*args)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, P())


# ------------------------------------------------------------------------------------------ activations

Tree = TypeVar("Tree")


def within(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """While a program is traced or called in here, `put` lays its activations on this mesh.

    It is part of what jit keeps programs by, and works inside of one. Nothing for None and for a single device.
    """
    if mesh is None or mesh.size == 1:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def of(tree: Any) -> Mesh | None:
    """The mesh on which a tree's arrays lie; None where they lie on one device, or are no arrays of JAX's."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and isinstance(leaf.sharding, NamedSharding):
            return leaf.sharding.mesh if isinstance(leaf.sharding.mesh, Mesh) else None
    return None


def put(tree: Tree, name: str) -> Tree:
    """An array, or each of a tree, laid on the mesh in force as ACTIVATIONS says. Without a mesh exactly nothing."""
    mesh = in_force()
    if mesh is None:
        return tree
    layout = lambda x: jax.lax.with_sharding_constraint(x, activation_spec(mesh, name, x.shape))
    return jax.tree.map(layout, tree)


def put_own(tree: Tree) -> Tree:
    """As `put(tree, "rows")`, but for leaves that lead with 1, which all rows share."""
    one = lambda x: put(x, "rows") if x.ndim and x.shape[0] > 1 else x
    return tree if in_force() is None else jax.tree.map(one, tree)


def activation_spec(mesh: Mesh | AbstractMesh, name: str, shape: Sequence[int]) -> P:
    """The split of an activation of this name and shape."""
    rule = ACTIVATIONS[name]
    middle = rule.index(...)
    whole = max(len(shape) - len(rule) + 1, 0)
    named = [*rule[:middle], *[None] * whole, *rule[middle + 1 :]]
    if _ALONE.get():
        named = [axes if axes == _T else None for axes in named]
    return P(*(_fitting(mesh, axes, size) for axes, size in zip(named, shape, strict=False)))


def row_parts(rows: int) -> int:
    """Into how many parts `rows` rows are cut on the mesh in force; 1 without one, or where they do not divide."""
    mesh = in_force()
    axes = None if mesh is None or _ALONE.get() else _fitting(mesh, _R, rows)
    return 1 if axes is None else int(np.prod([mesh.shape[a] for a in axes]))


def map_rows(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.vmap` over rows, each device its own. Inside there is one row, and nothing is split by row again."""

    def mapped(*trees: Any) -> Any:
        mesh, rows = in_force(), jax.tree.leaves(trees)[0].shape[0]
        axes = None if mesh is None else _fitting(mesh, _R, rows)
        if axes is None:
            return jax.vmap(fn)(*trees)

        def alone(*row: Any) -> Any:
            before = _ALONE.set(True)
            try:
                return fn(*row)
            finally:
                _ALONE.reset(before)

        return jax.vmap(alone, spmd_axis_name=axes)(*trees)

    return mapped


# Whether `map_rows` has taken the axes of rows. It lies around the tracing of one function and is read nowhere else.
_ALONE: contextvars.ContextVar[bool] = contextvars.ContextVar("alone", default=False)


def in_force() -> AbstractMesh | None:
    """The mesh that `within` has set, where it has more than one device. Another's mesh, of other axes, is none."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if mesh.axis_names == AXES and mesh.size > 1 else None


def _fitting(
    mesh: Mesh | AbstractMesh, axes: str | tuple[str, ...] | None, size: int
) -> tuple[str, ...] | None:
    """Those of the axes that have more than one device, if they divide `size`; else None."""
    axes = (axes,) if isinstance(axes, str) else axes or ()
    there = tuple(a for a in axes if mesh.shape.get(a, 1) > 1)
    parts = int(np.prod([mesh.shape[a] for a in there]))
    return there if there and size % parts == 0 else None


# ------------------------------------------------------------------------------------------ batches


def check_batch(mesh: Mesh, rows: int, accum: int = 1) -> None:
    """B must divide by accum x data x fsdp, or microbatches would lie unevenly on the devices."""
    data, fsdp = mesh.shape["data"], mesh.shape["fsdp"]
    if rows <= 0 or rows % (accum * data * fsdp):
        raise MeshError(
            f"a batch of {rows} rows does not divide by accum {accum} x data {data} x fsdp {fsdp} "
            f"= {accum * data * fsdp}"
        )


def process_rows(mesh: Mesh, rows: int) -> slice:
    """Which rows of a global batch this process has to make."""
    check_batch(mesh, rows)
    places = NamedSharding(mesh, ROWS).addressable_devices_indices_map((rows,)).values()
    spans = sorted({(s.start or 0, rows if s.stop is None else s.stop) for (s,) in places})
    if any(a[1] != b[0] for a, b in itertools.pairwise(spans)):
        raise MeshError(
            f"the devices of process {jax.process_index()} hold no contiguous rows: {spans}"
        )
    return slice(spans[0][0], spans[-1][1])


def place_batch(mesh: Mesh, batch: Any, rows: int) -> Any:
    """This process's rows (numpy leaves) -> global arrays of `rows` rows, split over data x fsdp.

    Leaves that are jax arrays already lie on the mesh (a rollout's, say) and pass. On the CPU an array may share
    memory with its numpy leaf: a source must not write again into what it has handed out. Shapes are given where
    they would lie, as by `place`.
    """
    if is_abstract(batch):
        return jax.tree.map(lambda leaf: _lying(leaf, NamedSharding(mesh, ROWS)), batch)
    if mesh.size == 1:
        return batch  # the step's own call takes numpy arrays, faster than device_put would
    split = NamedSharding(mesh, ROWS)
    if jax.process_count() == 1:
        return jax.device_put(
            batch, split
        )  # one call for the whole tree: small models are bound by the host

    def one(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array):
            return leaf
        return jax.make_array_from_process_local_data(
            split, np.asarray(leaf), (rows, *np.shape(leaf)[1:])
        )

    return jax.tree.map(one, batch)

"""Floor 3: a Hugging Face model loaded quantised, one tensor after the other.

A tensor is read, quantised, written into its place in the stack, and forgotten before the next one is opened: the
float model never exists, neither in memory nor as pages of a mapped file. A 7B Llama in 13.5 GB of bf16 files becomes
3.6 GB of NF4.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh
from jaxtyping import PyTree

from jaxrec import mesh as meshes
from jaxrec import quant
from jaxrec.hub.config import Config, ModelError, read_config
from jaxrec.hub.tensors import Tensors
from jaxrec.hub.weights import find, locate, open_tensors, read_array, shapes_of


def load(
    source: str | Path,
    kind: str = "nf4",
    *,
    head: bool = False,
    table: bool = False,
    param_dtype: Any = None,
    mesh: Mesh | None = None,
    rules: meshes.Rules = meshes.RULES,
    **changes: Any,
) -> tuple[Config, PyTree]:
    """(config, params) of a local folder or a hub id, the layers' kernels quantised.

    Args:
      source: where the model lies.
      kind: "nf4" or "int8".
      head, table: whether the output head and the table of token vectors are quantised too. Norms and biases never are.
      param_dtype: of what is not quantised; the file's own where not given.
      mesh: each weight is placed on it, by the rules, as soon as it is whole.
      rules: which axis of the mesh cuts which axis of a weight.
      changes: fields of the config, as for `hub.load`: with `dtype="bfloat16"` a kernel becomes bf16 where it is
        multiplied.

    Raises as `hub.load`, and QuantError on an unknown kind or weights that are not finite, naming the tensor.
    """
    quant.check_kind(kind)
    folder = find(source)
    cfg, family = read_config(folder)
    cfg = dataclasses.replace(cfg, **changes)
    flat = flatten_dict(shapes_of(cfg), sep="/")
    sources = {path: locate(path, cfg, family) for path in flat}
    with open_tensors(folder, family, cfg) as tensors:
        for path, leaf in flat.items():
            # All shapes before the first number: what does not fit is known at once, not after minutes of quantising.
            tensors.check(path, sources[path], leaf.shape)
        tensors.close()
        params = {}
        for path, leaf in flat.items():
            if quant.to_quantise(path, head, table):
                x = _read_quantised(tensors, path, sources[path], kind)
            else:
                x = read_array(tensors, path, sources[path], leaf.shape, param_dtype)
                tensors.close()
            if mesh is not None:
                x = quant.place(mesh, unflatten_dict({path: x}, sep="/"), rules)
                (x,) = flatten_dict(x, sep="/").values()
            params[path] = x
    return cfg, unflatten_dict(params, sep="/")


def _read_quantised(tensors: Tensors, path: str, names: list[str], kind: str) -> PyTree:
    """One kernel, of all layers of its stack (or of none)."""
    stack = None
    for i, name in enumerate(names):
        try:
            # Checkpoints hold [out, in], which is how codes lie: nothing is transposed.
            w = quant.quantise_rows(tensors.slice(name, (slice(None),)), kind)
        except quant.QuantError as error:
            raise ModelError(f"{name}: {error}") from error
        tensors.close()  # its pages would stay in memory as long as the file is open
        if not path.startswith("stack_"):
            return w
        if stack is None:
            stack = jax.tree.map(functools.partial(_room, len(names)), w)
        stack = jax.tree.map(functools.partial(_put, i=np.int32(i)), stack, w)
    return stack


def _room(layers: int, part: Any) -> jax.Array:
    return jnp.zeros((layers, *part.shape), part.dtype)


# Donated, so a layer's codes are written into the stack's memory and not into a copy of all of it.
@functools.partial(jax.jit, donate_argnums=0)
def _put(stack: jax.Array, part: jax.Array, i: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(stack, part, i, 0)

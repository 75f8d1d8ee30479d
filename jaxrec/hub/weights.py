"""Floor 3: Hugging Face safetensors <-> our params.

What is read follows from the model: its own shapes say which parameters there are, the tables in `names` where they
lie, and with shardings given, each process reads only the slices that its devices hold.
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from jaxrec import files, quant
from jaxrec.hub.config import Config, ModelError, ModelMissing, family_of, read_config, to_hf
from jaxrec.hub.gguf_folder import GgufTensors, is_unpacked, places, unpack
from jaxrec.hub.names import NAMES, transposed
from jaxrec.hub.published import PUBLISHED
from jaxrec.hub.published import locate as locate_published
from jaxrec.hub.tensors import Tensors
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.nn.encoder import Encoder
from jaxrec.nn.stack import stack_sizes

SHARD_BYTES = 5 << 30
# Of a model, whole or in shards, in any format that a reader looks for; and of an adapter, which transformers loads
# in place of the model that lies beside it.
_WEIGHTS = re.compile(
    r"((pytorch_)?model|consolidated|adapter_model|tf_model|flax_model)\b.*\.(safetensors|bin|pth|h5|msgpack|index\.json)"
    r"|adapter_config\.json|params\.json"
)
_FILES = (
    "config.json",
    "adapter_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_*",
)
_FILES += ("vocab*", "merges.txt", "generation_config.json", "chat_template*", "sentence_*")
_FILES += ("added_tokens.json", "additional_chat_templates/*")


def find(source: str | Path) -> Path:
    """The folder of a model: a local one as it is, that of a GGUF file (`hub.gguf_folder`), a published model by its
    name (`hub.published`), or a hub id, downloaded (or found in the cache).

    A folder that holds a GGUF file and no config.json stands for that file.

    Raises ModelMissing: a published model that was not fetched, and what is none of these; ModelError for a GGUF file
    that cannot be read, and for a folder of several.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return _inside(folder)
    if folder.is_file():
        return unpack(folder)
    if str(source) in PUBLISHED:
        return _inside(locate_published(str(source)))
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), allow_patterns=list(_FILES)))
    except Exception as error:
        raise ModelMissing(
            f"{str(source)!r} is no folder here, and the hub gave no such model: {_first_line(error)}"
        ) from error


def _inside(folder: Path) -> Path:
    held = sorted(folder.glob("*.gguf"))
    if not held or (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
        return folder
    if len(held) > 1:
        names = ", ".join(path.name for path in held[:6])
        raise ModelError(f"{folder} holds {len(held)} GGUF files: name one of them, {names}")
    return unpack(held[0])


def open_tensors(folder: Path, family: str, cfg: Config) -> Tensors:
    """The tensors of a model's folder, whichever files hold them; family and cfg as `read_config` gives them."""
    return GgufTensors(folder, family, cfg) if is_unpacked(folder) else Tensors(folder, family)


def tensor_places(folder: Path) -> Iterator[tuple[str, str, Path, int, int]]:
    """(name, type and shape, file, first byte, byte behind the last) of each tensor of a model's folder."""
    if is_unpacked(folder):
        yield from places(folder)
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            head = int.from_bytes(file.read(8), "little")
            tensors = json.loads(file.read(head))
        for name, one in tensors.items():
            if name != "__metadata__":
                start, stop = (8 + head + at for at in one["data_offsets"])
                yield name, f"{one['dtype']} {one['shape']}", path, start, stop


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def model_of(cfg: Config) -> Decoder | Encoder:
    """The flax module of a config."""
    return Decoder(cfg) if isinstance(cfg, DecoderConfig) else Encoder(cfg)


def shapes_of(cfg: Config) -> PyTree:
    """The parameters of a config as `jax.ShapeDtypeStruct`s."""
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    # Only traced: the shapes of a 7B model cost no memory.
    return jax.eval_shape(model_of(cfg).init, jax.random.key(0), ids)["params"]


def load(
    source: str | Path,
    *,
    param_dtype: Any = None,
    shardings: PyTree | Callable[[PyTree], PyTree] | None = None,
    **changes: Any,
) -> tuple[Config, PyTree]:
    """(config, params) of a local folder or a hub id.

    param_dtype: that of the file when None. shardings: a tree like params (or a function from the tree of
    shapes to it); each process then reads its devices' slices only. changes: fields of our config to set, such
    as `dtype="bfloat16"`, `cuts=(21,)`, `remat="full"`; fields that the weights decide will not fit them.

    Raises ModelMissing on missing files and ModelError on unsupported architectures, missing tensors, and weights
    that don't fit the config (naming the first tensor and both shapes).
    """
    folder = find(source)
    cfg, family = read_config(folder)
    cfg = dataclasses.replace(cfg, **changes)
    shapes = shapes_of(cfg)
    # A function of shapes is taken too, because a caller knows the tree only once config and cuts are known.
    placed = flatten_dict(shardings(shapes) if callable(shardings) else shardings or {}, sep="/")
    with open_tensors(folder, family, cfg) as tensors:
        flat = flatten_dict(shapes, sep="/")
        # All shapes are checked before a number is read, so that a misfit is known at once.
        sources = {path: locate(path, cfg, family) for path in flat}
        for path, leaf in flat.items():
            tensors.check(path, sources[path], leaf.shape)
        arrays = {
            path: read_array(
                tensors, path, sources[path], leaf.shape, param_dtype, placed.get(path)
            )
            for path, leaf in flat.items()
        }
    return cfg, unflatten_dict(arrays, sep="/")


def locate(path: str, cfg: Config, family: str) -> list[str]:
    """The tensors that make the parameter at our path: one for each layer of its stack, or just one."""
    stack = re.match(r"(stack_\d+)/", path)
    if stack is None:
        return [_name(path, family)]
    sizes = stack_sizes(cfg.layers, cfg.cuts)
    starts = dict(zip(sizes, itertools.accumulate(sizes.values(), initial=0), strict=False))
    name = _name("layer/" + path[stack.end() :], family)
    start = starts[stack[1]]
    return [name.format(n=n) for n in range(start, start + sizes[stack[1]])]


def _name(path: str, family: str) -> str:
    if path not in NAMES[family]:
        raise ModelError(f"a {family} checkpoint has no place for the parameter {path}")
    return NAMES[family][path]


def read_array(
    tensors: "Tensors", path: str, names: list[str], shape: tuple, dtype: Any, sharding: Any = None
) -> jax.Array:
    """The parameter at our path, of all layers of its stack.

    Args:
      tensors: the checkpoint's.
      path: of the parameter, its keys joined by "/".
      names: the tensors that make it, from `locate`: one for each layer, or just one.
      shape: ours, which leads with layers where the path is of a stack.
      dtype: that of the file when None.
      sharding: where it goes; each process then reads its devices' slices only.
    """
    stacked, turn = path.startswith("stack_"), transposed(path)

    # `index` is in our axes, [N, D, F]: the file has a tensor for each layer, and kernels the other way round.
    def part(index: tuple[slice, ...]) -> np.ndarray:
        layers, rest = (names[index[0]], index[1:]) if stacked else (names, index)
        x: np.ndarray | None = None
        for i, name in enumerate(layers):
            one = tensors.slice(name, rest[::-1] if turn else rest)
            one = one.T if turn else one
            if not stacked:
                return np.ascontiguousarray(one, dtype=dtype or one.dtype)
            # Straight into its place: a list of all layers would be a second copy of the parameter.
            if x is None:
                x = np.empty((len(layers), *one.shape), dtype or one.dtype)
            x[i] = one
        return x

    if sharding is None:
        whole = part((slice(None),) * len(shape))
        # A copy, because `whole` may be the file's memory; `jnp.array` would make one more on the way.
        return jax.device_put(whole, may_alias=False)
    return jax.make_array_from_callback(shape, sharding, part)


# -------------------------------------------------------------------------------------------------- saving


def save(folder: str | Path, cfg: Config, params: PyTree, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes config.json and model.safetensors in HF's layout (several files and an index beyond `shard_bytes`).

    `transformers` loads the folder with `from_pretrained`. An older model there, or an adapter, goes as a whole, in
    whatever files it lies; a tokenizer stays. A folder whose saving was cut short has no config.json.

    Args:
      folder: is made where it is not there.
      cfg: of the model.
      params: its weights; they are copied to numpy arrays file by file.
      shard_bytes: the most that one file holds, unless a single tensor is larger.

    Raises ModelError when no supported architecture holds the model.
    """
    with files.replace_files(folder, is_weights, "config.json") as fresh:
        write_model(fresh, cfg, params, shard_bytes)


def is_weights(path: Path) -> bool:
    """Whether this file, by its name, is of a model's or adapter's weights: what some reader would prefer, or add."""
    return _WEIGHTS.fullmatch(path.name) is not None and not path.is_dir()


def write_model(folder: Path, cfg: Config, params: PyTree, shard_bytes: int = SHARD_BYTES) -> None:
    """The files of `save`, into a folder that holds no model.

    Args:
      folder: is there already.
      cfg, params, shard_bytes: as of `save`.
    """
    from safetensors.numpy import save_file

    # Hugging Face has formats of its own for 4 and 8 bits, and transformers would read our codes as weights.
    if quant.kinds_in(params):
        raise ModelError(
            "quantised weights have no place in a Hugging Face folder here: give what they stand for (quant.whole)"
        )
    family = family_of(cfg)
    groups = list(_in_groups(_hf_tensors(cfg, params, family), shard_bytes))
    # The names that transformers looks for; the index is read only where there are several files.
    names = ["model.safetensors"]
    if len(groups) > 1:
        names = [f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors" for i in range(len(groups))]
    weight_map, total = {}, 0
    for name, group in zip(names, groups, strict=True):
        arrays = {tensor: make() for tensor, make in group}
        save_file(arrays, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(arrays, name)
        total += sum(x.nbytes for x in arrays.values())
    if len(groups) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        files.write_json(folder / "model.safetensors.index.json", index, indent=2)
    # Both spellings: older versions of transformers read "torch_dtype", newer ones "dtype".
    dtype = jax.tree.leaves(params)[0].dtype.name
    contents = to_hf(cfg, family) | {"dtype": dtype, "torch_dtype": dtype}
    files.write_json(folder / "config.json", contents, indent=2)


def _hf_tensors(
    cfg: Config, params: PyTree, family: str
) -> Iterator[tuple[str, int, Callable[[], np.ndarray]]]:
    """(name, bytes, how to make the array) of every tensor, so that only one group of them is in memory."""
    for path, leaf in flatten_dict(params, sep="/").items():
        names = locate(path, cfg, family)
        for i, name in enumerate(names):
            # Defaults bind the loop's variables now, because the array is made when its file is written.
            def make(leaf=leaf, i=i, path=path) -> np.ndarray:
                x = np.asarray(leaf[i] if path.startswith("stack_") else leaf)
                return np.ascontiguousarray(x.T if transposed(path) else x)

            yield name, leaf.nbytes // len(names), make


def _in_groups(
    tensors: Iterator[tuple[str, int, Callable]], limit: int
) -> Iterator[list[tuple[str, Callable]]]:
    group, size = [], 0
    for name, nbytes, make in tensors:
        # A tensor is never split: one that is larger than the limit has a file of its own.
        if group and size + nbytes > limit:
            yield group
            group, size = [], 0
        group.append((name, make))
        size += nbytes
    yield group


def check_vocabulary(n_tokens: int, cfg: Config) -> None:
    """Raises ModelError when a tokenizer can give ids that the embedding has no row for."""
    if n_tokens > cfg.vocab:
        raise ModelError(
            f"the tokenizer has {n_tokens} tokens, but the embedding only {cfg.vocab} rows: they are not of the"
            " same model"
        )

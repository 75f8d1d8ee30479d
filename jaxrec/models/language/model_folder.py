"""Floor 3: a model's folder opened: its config, its weights, and how it writes conversations. One way for all stages.

FOLDER is of Hugging Face's layout, ours too (config.json, *.safetensors, tokenizer.json), or a GGUF file, the name of a
published model ("smollm2", `hub.published`) or a hub id. It is recognised by its file's own weights, so what was
trained on NF4 codes of a base belongs to that base, whatever it is loaded as.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from jaxrec import mesh
from jaxrec.config import RunError
from jaxrec.data import text
from jaxrec.data.chat import ChatFormat, OwnChat, PlainChat, TemplateChat
from jaxrec.files import content_hash, whole_folder
from jaxrec.hub.config import ModelMissing, read_config
from jaxrec.hub.tokenizer import Tokenizer
from jaxrec.hub.weights import check_vocabulary, find, is_weights, load, tensor_places
from jaxrec.nn.decoder import Decoder, DecoderConfig

_SAMPLES, _CHUNK = 16, 256  # bytes of each tensor that its hash reads
_MARKS = ("facts.json", "adapter_config.json", "config.json")  # of a folder that can be loaded


class BackboneMismatch(RunError, ValueError):
    """Small parts that were trained on another backbone than the one at hand."""


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """What a folder holds. `hashed` is its `base_hash`; `source` where it lies, a folder or a hub id."""

    cfg: DecoderConfig
    params: PyTree
    chat: ChatFormat
    hashed: str
    source: str

    @property
    def model(self) -> Decoder:
        """The module of the weights."""
        return Decoder(self.cfg)


def load_model(
    source: str | Path,
    *,
    devices: jax.sharding.Mesh | None = None,
    quantise: str = "",
    param_dtype: Any = None,
    plain: bool = False,
    **changes: Any,
) -> ModelFolder:
    """A model from a Hugging Face folder, a GGUF file, or by the name of a published model or its hub id.

    Args:
      source: the folder, file, name or id, or the OUT of a run that wrote OUT/model.
      devices: the mesh that the weights are placed on; the default device when None.
      quantise: "nf4" or "int8" kernels.
      param_dtype: of the weights; that of the file when None.
      plain: no chat template (`chat_of`).
      changes: fields of our config to set (`dtype="bfloat16"`, `cuts=(21,)`, `remat="full"`).

    Raises what the hub raises: ModelMissing for what is not there (tokenizer.json too), ModelError for weights that
    don't fit, and for a tokenizer with more tokens than the embedding has rows; RunError for a model that is no
    causal one. More rows than tokens are fine.
    """
    source = part_of_run(source, ("model",))
    folder = find(source)
    if not isinstance(read_config(folder)[0], DecoderConfig):
        raise RunError(f"{source} is no causal language model, and these stages stand on one")
    # Read before the weights: a tokenizer that is missing is known in a moment, the weights take minutes.
    chat = chat_of(folder, plain)
    if quantise:
        from jaxrec.hub import quantised

        cfg, params = quantised.load(
            source, kind=quantise, param_dtype=param_dtype, mesh=devices, **changes
        )
    else:
        # A function of the shapes, because the config (and with it the tree) is only known inside `load`.
        at = None if devices is None else lambda tree: mesh.shardings(devices, tree)
        cfg, params = load(source, param_dtype=param_dtype, shardings=at, **changes)
    check_vocabulary(chat.size, cfg)
    return ModelFolder(cfg, params, chat, base_hash(folder), source)


def part_of_run(source: str | Path, parts: Sequence[str]) -> str:
    """The folder that is meant where a run's OUT is given: OUT/adapter, OUT/model, ...

    The OUT of a run has a config.json too, of the run's settings, so what counts as a model is told by its weights.
    What can be loaded itself, and what is no folder here (a hub id), is given back as it is; a choice among several
    parts is said on stderr.

    Args:
      source: a folder or a hub id.
      parts: folders in OUT that would do, the best one first.

    Raises ModelMissing, with what the folder holds, for one that is neither loadable nor has such a part.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir() or _is_loadable(folder):
        return str(source)
    there = [name for name in parts if any(whole_folder(folder / name, mark) for mark in _MARKS)]
    if not there and any(folder.glob("*.gguf")):
        return str(source)
    if not there:
        names = sorted(f"{one.name}/" if one.is_dir() else one.name for one in folder.iterdir())
        shown = ", ".join(name if name.isprintable() else ascii(name) for name in names[:8])
        shown += f" and {len(names) - 8} more" if len(names) > 8 else ""
        wanted = " or ".join(f"{name}/" for name in parts)
        raise ModelMissing(
            f"{folder} has neither weights nor facts.json, and no {wanted} as a run writes them: it holds"
            f" {shown or 'nothing'}"
        )
    if len(there) > 1:
        others = ", ".join(str(folder / name) for name in there[1:])
        print(f"{source}: {folder / there[0]} is taken (not {others})", file=sys.stderr, flush=True)
    return str(folder / there[0])


def _is_loadable(folder: Path) -> bool:
    """Whether it holds weights or facts of its own, or a config.json that names a kind of model."""
    if whole_folder(folder, "facts.json") or (folder / "adapter_config.json").is_file():
        return True
    if any(is_weights(path) for path in folder.iterdir()):
        return True
    path = folder / "config.json"
    try:
        named = json.loads(path.read_text("utf-8")) if path.is_file() else None
    except ValueError:
        return True  # a damaged one is named by whoever reads it
    return isinstance(named, Mapping) and "model_type" in named


def place_facts(folder: str | Path, source: str | Path) -> dict[str, str]:
    """Where a base lies, for the facts of a folder that stands on it: relative to that folder, and as it was given."""
    local = Path(source).expanduser()
    if not local.exists():
        return {"base": "", "base_given": str(source)}
    return {"base": os.path.relpath(local, folder), "base_given": str(local.resolve())}


def place_of(folder: str | Path, facts: Mapping[str, Any]) -> str:
    """Where the base of a folder with `place_facts` lies: relative to it if it is still there, else as it was given."""
    # Relative first, so that a run's folder can be moved together with its base.
    near = Path(folder) / facts["base"] if facts["base"] else None
    return str(near.resolve()) if near is not None and near.exists() else facts["base_given"]


def chat_of(folder: str | Path, plain: bool = False) -> ChatFormat:
    """How the model of a folder writes conversations: by its template, in our own format, or plainly.

    plain: a prompt and its completion as they stand, whatever the model could.
    """
    tok = Tokenizer(folder)
    # The model's own template goes first: it is what the model was taught with.
    if tok.has_template and not plain:
        return TemplateChat(tok)
    try:
        return OwnChat(text.BytePairTokenizer.load(Path(folder) / "tokenizer.json"), plain)
    except text.TextError:
        return PlainChat(tok)


def base_hash(folder: str | Path) -> str:
    """A hash of a checkpoint's tensors: their names, types, shapes, and 4 KB of each, however they lie in files.

    Reads a few MB of a 7B model. It tells weights apart; it is no defence against forgery.
    """
    seen = {}
    for name, form, path, start, stop in tensor_places(find(folder)):
        with path.open("rb") as file:
            parts: list[str | bytes] = [f"{name} {form}"]
            # Training moves a tensor as a whole, so a few places from its first bytes to its last tell it apart.
            for at in np.linspace(start, max(stop - _CHUNK, start), _SAMPLES).astype(int):
                file.seek(int(at))
                parts.append(file.read(min(_CHUNK, stop - int(at))))
            seen[name] = bytes.fromhex(content_hash(*parts))
    # By name and not by file: the same weights in one file or in ten shards have one hash.
    return content_hash(*(seen[name] for name in sorted(seen)), digits=16)

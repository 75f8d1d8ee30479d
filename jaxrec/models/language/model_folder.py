"""Floor 3: a model's folder opened: its config, its weights, and how it writes conversations. One way for all stages.

FOLDER is of Hugging Face's layout, ours too, or a hub id: config.json, *.safetensors, tokenizer.json. It is recognised
by its file's own weights, so what was trained on NF4 codes of a base belongs to that base, whatever it is loaded as.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from jaxrec import mesh
from jaxrec.config import RunError
from jaxrec.data import text
from jaxrec.data.chat import ChatFormat, OwnChat, PlainChat, TemplateChat
from jaxrec.files import content_hash
from jaxrec.hub.tokenizer import Tokenizer
from jaxrec.hub.weights import check_vocabulary, find, load
from jaxrec.nn.decoder import Decoder, DecoderConfig

_SAMPLES, _CHUNK = 16, 256  # bytes of each tensor that its hash reads


class BackboneMismatch(RunError, ValueError):
    """Small parts that were trained on another backbone than the one at hand."""


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """What a folder holds. `hashed` is its `base_hash`."""

    cfg: DecoderConfig
    params: PyTree
    chat: ChatFormat
    hashed: str

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
    """A model from a Hugging Face folder or by its hub id.

    Args:
      source: the folder or id.
      devices: the mesh that the weights are placed on; the default device when None.
      quantise: "nf4" or "int8" kernels.
      param_dtype: of the weights; that of the file when None.
      plain: no chat template (`chat_of`).
      changes: fields of our config to set (`dtype="bfloat16"`, `cuts=(21,)`, `remat="full"`).

    Raises what the hub raises: ModelMissing for what is not there (tokenizer.json too), ModelError for weights that
    don't fit, and for a tokenizer with more tokens than the embedding has rows; RunError for a model that is no
    causal one. More rows than tokens are fine.
    """
    folder = find(source)
    chat = chat_of(folder, plain)
    if quantise:
        from jaxrec.hub import quantised

        cfg, params = quantised.load(
            source, kind=quantise, param_dtype=param_dtype, mesh=devices, **changes
        )
    else:
        at = None if devices is None else lambda tree: mesh.shardings(devices, tree)
        cfg, params = load(source, param_dtype=param_dtype, shardings=at, **changes)
    if not isinstance(cfg, DecoderConfig):
        raise RunError(f"{source} is no causal language model, and these stages stand on one")
    check_vocabulary(chat.size, cfg)
    return ModelFolder(cfg, params, chat, base_hash(folder))


def place_facts(folder: str | Path, source: str | Path) -> dict[str, str]:
    """Where a base lies, for the facts of a folder that stands on it: relative to that folder, and as it was given."""
    local = Path(source).expanduser()
    if not local.is_dir():
        return {"base": "", "base_given": str(source)}
    return {"base": os.path.relpath(local, folder), "base_given": str(local.resolve())}


def place_of(folder: str | Path, facts: Mapping[str, Any]) -> str:
    """Where the base of a folder with `place_facts` lies: relative to it if it is still there, else as it was given."""
    near = Path(folder) / facts["base"] if facts["base"] else None
    return str(near.resolve()) if near is not None and near.is_dir() else facts["base_given"]


def chat_of(folder: str | Path, plain: bool = False) -> ChatFormat:
    """How the model of a folder writes conversations: by its template, in our own format, or plainly.

    plain: a prompt and its completion as they stand, whatever the model could.
    """
    tok = Tokenizer(folder)
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
    for path in sorted(find(folder).glob("*.safetensors")):
        with path.open("rb") as file:
            head = int.from_bytes(file.read(8), "little")
            tensors = json.loads(file.read(head))
            for name, one in tensors.items():
                if name == "__metadata__":
                    continue
                start, stop = one["data_offsets"]
                parts: list[str | bytes] = [f"{name} {one['dtype']} {one['shape']}"]
                for at in np.linspace(start, max(stop - _CHUNK, start), _SAMPLES).astype(int):
                    file.seek(8 + head + int(at))
                    parts.append(file.read(min(_CHUNK, stop - int(at))))
                seen[name] = bytes.fromhex(content_hash(*parts))
    return content_hash(*(seen[name] for name in sorted(seen)), digits=16)

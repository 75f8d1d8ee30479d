"""A tuned model's folder: what was trained, and the name and hash of the base that it belongs to.

FOLDER/params       the Delta (and what else was trained beside the backbone: a value head, ...)
FOLDER/facts.json   base (where it lay, relative and as given), its hash, the DeltaConfig, the stacks' cuts

The base is a Hugging Face folder or hub id, and is never copied. It is recognised by its file's own weights, so an
adapter that was trained through NF4 codes of a base is the adapter of that base, whatever it is loaded as.
"""

import dataclasses
import fnmatch
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

from jaxrec import checkpoint, config, files, mesh
from jaxrec import delta as deltas
from jaxrec.config import RunError
from jaxrec.data.chat import ChatFormat
from jaxrec.delta import DeltaConfig
from jaxrec.hub.peft import load_peft
from jaxrec.hub.weights import find, is_weights, write_model
from jaxrec.models.language.model_folder import (
    BackboneMismatch,
    base_hash,
    chat_of,
    load_model,
    part_of_run,
    place_facts,
    place_of,
)
from jaxrec.models.language.tuned_lm import TunedLM
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.nn.stack import stack_sizes
from jaxrec.structs import Delta
from jaxrec.training.partition import paths

_TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt")
_TOKENIZER_FILES += ("chat_template*", "generation_config.json", "added_tokens.json")
_TOKENIZER_FILES += ("additional_chat_templates",)


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A loaded model, tuned or not yet: `tree` has "backbone", and "delta" and what else the adapter brought."""

    cfg: DecoderConfig
    tree: dict[str, PyTree]
    chat: ChatFormat
    base: str  # where the backbone came from
    base_hash: str
    spec: DeltaConfig  # of tree["delta"]; empty where there is none
    facts: dict[str, Any]  # of the adapter's folder

    @property
    def model(self) -> Decoder:
        """The module of the backbone."""
        return Decoder(self.cfg)

    @property
    def lm(self) -> TunedLM:
        """The model as the tuning stages see it, without dropout."""
        return TunedLM(self.model)

    def with_delta(self, spec: DeltaConfig, seed: int, devices: jax.sharding.Mesh) -> "Tuned":
        """With a fresh Delta (the identity) that is to be trained; none where `spec` is empty."""
        if spec.empty:
            return dataclasses.replace(self, spec=spec)
        make = jax.jit(lambda key: deltas.init(key, Decoder.sites(self.cfg), spec))
        delta = mesh.place(devices, make(jax.random.key(seed)))
        return dataclasses.replace(self, tree={**self.tree, "delta": delta}, spec=spec)


# ------------------------------------------------------------------------------------------------ loading


def load_tuned(
    source: str | Path,
    adapter: str | Path = "",
    *,
    devices: jax.sharding.Mesh | None = None,
    quantise: str = "",
    param_dtype: Any = None,
    cuts: tuple[int, ...] | None = None,
    plain: bool | None = None,
    **changes: Any,
) -> Tuned:
    """A model as one tree, from where it lies.

    Args:
      source: a Hugging Face folder or hub id; an adapter's folder, whose base is then found by itself; or the OUT of
        a run, whose OUT/adapter goes before OUT/model.
      adapter: a folder of ours (`save_tuned`) or of HF PEFT, or the OUT of a run with one, on top of `source`.
      devices: the mesh that everything is placed on; the default device when None.
      quantise: "nf4" or "int8" weights for the backbone.
      param_dtype: of the weights; that of the file when None.
      cuts: of the layers into stacks; as the adapter's, or none, when None.
      plain: no chat template, as `PlainChat`; as the adapter was trained when None.
      changes: fields of the DecoderConfig (`dtype="bfloat16"`, `remat="full"`).

    Raises BackboneMismatch where the adapter belongs to another base, and what hub and checkpoint raise.
    """
    if adapter:
        source, adapter = part_of_run(source, ("model",)), part_of_run(adapter, ("adapter", "peft"))
    else:
        source = part_of_run(source, ("adapter", "model"))
        if is_adapter(source):
            # An adapter given alone names its own base, so the adapter's folder is enough to load the whole.
            source, adapter = base_of(source), source
    folder = find(source)
    facts = _facts_of(adapter, "base_hash") if adapter and not _is_peft(adapter) else {}
    found = base_hash(folder)  # before the weights are read, which may take minutes
    if facts and facts["base_hash"] != found:
        raise BackboneMismatch(
            f"{adapter} was trained on the base {facts['base_given']} with hash {facts['base_hash']}, but {source} has"
            f" {found}: name the base that it belongs to, or train it again"
        )
    # Paths of a Delta name stacks, so the base is cut as it was when the Delta was made, or the Delta is restacked.
    own_cuts = tuple(facts.get("cuts", ()))
    changes |= {"cuts": own_cuts if cuts is None else cuts}
    opened = load_model(
        source,
        devices=devices,
        quantise=quantise,
        param_dtype=param_dtype,
        plain=bool(facts.get("plain", False)) if plain is None else plain,
        **changes,
    )
    cfg, params = opened.cfg, opened.params
    tree: dict[str, PyTree] = {"backbone": params}
    spec = DeltaConfig()
    if adapter and _is_peft(adapter):
        tree["delta"], spec = load_peft(adapter, cfg, params)
    elif adapter:
        spec = config.from_dict(DeltaConfig, facts["delta"])
        tree |= _own_parts(adapter, spec, dataclasses.replace(cfg, cuts=own_cuts), cfg)
    if devices is not None:
        tree |= {
            name: mesh.place(devices, part) for name, part in tree.items() if name != "backbone"
        }
    return Tuned(cfg, tree, opened.chat, source, found, spec, facts)


def is_adapter(folder: str | Path) -> bool:
    """Whether this is an adapter's folder, ours or of HF PEFT."""
    return _is_peft(folder) or (
        (Path(folder) / "facts.json").is_file() and not (Path(folder) / "config.json").is_file()
    )


def base_of(adapter: str | Path) -> str:
    """Where an adapter's base lies: relative to it if it is still there, else as it was given."""
    if _is_peft(adapter):
        named = json.loads((Path(adapter) / "adapter_config.json").read_text())
        return str(named.get("base_model_name_or_path") or "")
    return place_of(adapter, _facts_of(adapter, "base_given"))


# ------------------------------------------------------------------------------------------------- saving


def save_tuned(
    folder: str | Path,
    tree: Mapping[str, PyTree],
    *,
    cfg: DecoderConfig,
    base: str,
    spec: DeltaConfig,
    hashed: str = "",
    plain: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Writes every part of a tree but the backbone, replacing what was there.

    Args:
      folder: where.
      tree: all parts; "delta" is one.
      cfg: of the backbone, whose cuts are kept.
      base: where the backbone came from (a folder or a hub id).
      spec: the DeltaConfig of tree["delta"].
      hashed: the base's `base_hash`, read where not given.
      plain: it was trained without a chat template.
      facts: more for facts.json (the stage, the step, a score).
    """
    folder = Path(folder)
    parts = {name: part for name, part in tree.items() if name != "backbone"}
    if not parts:
        raise ValueError("nothing but a backbone: save_model writes that")
    told = {
        **place_facts(folder, base),
        "base_hash": hashed or base_hash(base),
        "delta": config.to_dict(spec),
        "cuts": cfg.cuts,
        "plain": plain,
        **(facts or {}),
    }
    checkpoint.save_params(folder, parts, told)


def save_stage(
    out: str | Path,
    tuned: Tuned,
    tree: Mapping[str, PyTree],
    *,
    backbone: bool,
    facts: Mapping[str, Any],
    plain: bool = False,
) -> tuple[str, list[Path]]:
    """What a tuning stage leaves: OUT/model where weights of the backbone trained, OUT/adapter where there is a
    Delta.

    Gives (the base of the Delta, the folders that were written, the adapter's first).

    Args:
      out: the run's folder.
      tuned: the model as it was loaded.
      tree: the whole tree after training.
      backbone: whether its weights trained; the adapter then belongs to OUT/model.
      facts: for the adapter's facts.json.
      plain: trained without a chat template.
    """
    base, written = tuned.base, []
    if backbone:
        base = str(Path(out) / "model")
        save_model(base, tuned.cfg, tree["backbone"], tuned.base)
        written.append(Path(base))
    if "delta" in tree:
        # "start" is the reference policy of this training alone: what is kept stands without it.
        kept = {name: part for name, part in tree.items() if name != "start"}
        save_tuned(
            Path(out) / "adapter", kept,
            cfg=tuned.cfg, base=base, spec=tuned.spec, plain=plain, facts=facts,
        )  # fmt: skip
        # First, because whoever goes on from here loads the adapter and finds its base by it.
        written.insert(0, Path(out) / "adapter")
    return base, written


def save_model(folder: str | Path, cfg: DecoderConfig, params: PyTree, base: str | Path) -> None:
    """Writes a whole model as a Hugging Face folder, with the tokenizer files of the base that it came from.

    Whatever model or tokenizer was there goes. generation_config.json names all that ends an answer, the chat
    template's own end too, so that `transformers` stops there as we do.

    Args:
      folder: where.
      cfg: of the model.
      params: its weights.
      base: a folder or hub id with the tokenizer.
    """
    source = find(base)
    beside = [path for name in _TOKENIZER_FILES for path in source.glob(name)]
    with files.replace_files(folder, _is_older, "config.json") as fresh:
        # Into a folder beside: tokenizer and weights are replaced together, so no reader finds one of each model.
        write_model(fresh, cfg, jax.device_get(params))
        for path in beside:
            copy = shutil.copytree if path.is_dir() else shutil.copyfile
            copy(path, fresh / path.name)
        # The base's own file was copied above; what it says beside the ends stays.
        generation = fresh / "generation_config.json"
        contents = json.loads(generation.read_text("utf-8")) if generation.is_file() else {}
        ends = list(chat_of(source).eos_ids)
        if ends:
            files.write_json(generation, contents | {"eos_token_id": ends}, indent=2)


def _is_older(path: Path) -> bool:
    if path.is_dir():
        return path.name == _TOKENIZER_FILES[-1]
    return is_weights(path) or any(fnmatch.fnmatchcase(path.name, one) for one in _TOKENIZER_FILES)


def delta_like(spec: DeltaConfig, cfg: DecoderConfig, saved: PyTree) -> Delta:
    """A Delta that was saved and came back as nested dicts, a Delta again.

    Raises BackboneMismatch where it is not of the layout that `spec` asks of a model of `cfg`.
    """
    # A checkpoint knows nested dicts only. The layout comes from config and spec, and the leaves are put into it
    # by path, so what is missing or of another shape is found by its name.
    like = deltas.shapes(Decoder.sites(cfg), spec)
    leaves = dict(paths(saved))

    def put(keys: Any, leaf: Any) -> Any:
        path = mesh.path_of(keys)
        found = leaves.get(path)
        if found is None or tuple(found.shape) != tuple(leaf.shape):
            is_there = "nothing" if found is None else f"shape {tuple(found.shape)}"
            raise BackboneMismatch(
                f"the adapter has {is_there} at {path}, this base needs {tuple(leaf.shape)}: it was made for a model"
                " of another shape"
            )
        return found

    return jax.tree_util.tree_map_with_path(put, like)


# ------------------------------------------------------------------------------------------------- inside


def _is_peft(folder: str | Path) -> bool:
    return (Path(folder) / "adapter_config.json").is_file()


def _facts_of(adapter: str | Path, needed: str) -> dict[str, Any]:
    """The facts of an adapter of ours. Raises RunError for a folder of something else, which may name a base, too."""
    facts = checkpoint.load_facts(adapter)
    if "personal" in facts or {"tenants", "model"} <= set(facts):
        raise RunError(
            f"{adapter} speaks for tenants, and is no adapter of a language model; jaxrec answer asks it"
        )
    if missing := {needed, "delta"} - set(facts):
        raise RunError(
            f"{adapter} is no adapter's folder: its facts.json lacks {sorted(missing)[0]!r}"
        )
    return facts


def _own_parts(
    folder: str | Path, spec: DeltaConfig, saved_as: DecoderConfig, cfg: DecoderConfig
) -> dict[str, PyTree]:
    parts = dict(checkpoint.load_params(folder))
    if "delta" in parts:
        delta = delta_like(spec, saved_as, parts["delta"])
        # Restacked after it was checked against the cuts that it was saved with, whose paths its leaves have.
        if saved_as.cuts != cfg.cuts:
            sizes = [list(stack_sizes(c.layers, c.cuts).values()) for c in (saved_as, cfg)]
            delta = deltas.restack(delta, *sizes)
        parts["delta"] = delta
    return parts

"""A personal model's folder: everything but the backbone, which it names and recognises by its hash.

FOLDER/params       lfe, head, hypernet, encoder, profile
FOLDER/facts.json   configs of all parts, the backbone's place and hash, the tenants of the profile table
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

from jaxrec import checkpoint, config, mesh, quant
from jaxrec import delta as deltas
from jaxrec.config import RunError
from jaxrec.data.chat import ChatFormat
from jaxrec.delta import DeltaConfig, shapes
from jaxrec.dialogue.pages import PagesConfig
from jaxrec.hub.config import read_config
from jaxrec.hub.weights import find as find_model
from jaxrec.models.language.model_folder import (
    BackboneMismatch,
    ModelFolder,
    chat_of,
    load_model,
    part_of_run,
    place_facts,
    place_of,
)
from jaxrec.models.language.tuned_folder import is_adapter, load_tuned
from jaxrec.models.personal.inside import InsideError, cuts_between
from jaxrec.models.personal.lfe import LFEConfig
from jaxrec.models.personal.personal_lm import PersonalConfig, PersonalLM
from jaxrec.models.personal.profile import ProfileEncoder, ProfileEncoderConfig
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.nn.stack import recut, stack_sizes
from jaxrec.training.partition import paths

# Tokenizers that split these alike are taken for the same one.
_ANY_TEXT = (
    "Hello, world! We open at 9:30, for 12.50 a piece.",
    "Größe 5 €; naïve 日本語 😀\n\n  x = [1, 2]",
)


@dataclasses.dataclass(frozen=True)
class Personal:
    """A loaded personal model. `params` has "backbone" in it as well; `tenants` names the rows of params["profile"]."""

    lm: PersonalLM
    encoder: ProfileEncoder
    params: PyTree
    chat: ChatFormat
    tenants: tuple[str, ...]
    facts: dict[str, Any]

    @property
    def pages(self) -> PagesConfig | None:
        """How a page is put before a question, where the model was trained so: always a found one."""
        if "pages" not in self.facts:
            return None
        trained = config.from_dict(PagesConfig, self.facts["pages"])
        return PagesConfig("retrieved", length=trained.length, count=trained.count)


def load_backbone(
    source: str, devices: jax.sharding.Mesh, cuts: tuple[int, ...] = (), quantise: str = ""
) -> ModelFolder:
    """What a personal model stands on, frozen: a Hugging Face folder, a hub id, or an adapter's folder.

    Args:
      source: where it lies, or the OUT of a run that wrote it.
      devices: the mesh that the weights are placed on.
      cuts: of the layers into stacks.
      quantise: "nf4", "int8" or "bf16" kernels; an adapter is folded into its base, which must then be whole.

    Raises as `load_model` and `load_tuned`, and RunError for an adapter that cannot be folded in.
    """
    source = part_of_run(source, ("adapter", "model"))
    if not is_adapter(source):
        return load_model(source, devices=devices, quantise=quantise, cuts=cuts)
    if quantise:
        raise RunError(
            f"{source} is an adapter, which is folded into its base: that goes with whole weights only, so load it"
            " without quantise"
        )
    tuned = load_tuned(source, devices=devices, cuts=cuts)
    try:
        params = deltas.merge_params(tuned.tree["backbone"], tuned.tree["delta"], Decoder.path_of)
    except ValueError as error:
        raise RunError(f"{source} cannot be folded into its base: {error}") from error
    # Neither the base's hash nor the adapter's alone says what p was trained on.
    hashed = f"{tuned.base_hash}+{checkpoint.fingerprint(tuned.tree['delta'])}"
    return ModelFolder(tuned.cfg, params, tuned.chat, hashed, source)


def load_teacher(
    source: str, backbone: Any, devices: jax.sharding.Mesh, chat: ChatFormat
) -> tuple[Any, PyTree]:
    """(module, params placed on the mesh) of a decoder to distil from.

    Args:
      source: a Hugging Face folder or hub id.
      backbone: the module that learns.
      devices: the mesh that the weights are placed on.
      chat: of the backbone. A larger model of a family has its tokenizer, and at most more unused rows, which go.

    Raises RunError for another tokenizer, and for fewer rows than the backbone's vocabulary has.
    """
    folder, vocab = find_model(source), backbone.cfg.vocab
    # Asked of the config, so that a teacher that does not fit is refused before its weights are read.
    has = read_config(folder)[0].vocab
    alike = lambda other: all(chat.encode(x) == other.encode(x) for x in _ANY_TEXT)
    if has < vocab or not alike(chat_of(folder)):  # known before the weights are read
        raise RunError(
            f"teacher {source} ({has} tokens) splits texts in another way than the backbone ({vocab}): a teacher must"
            " share the backbone's tokenizer"
        )
    told = load_model(source, devices=devices)
    cfg, params = dataclasses.replace(told.cfg, vocab=vocab), dict(told.params)
    # Rows beyond the backbone's vocabulary are padding of the larger table, and a distribution over them has no target.
    params["embed"] = {"table": params["embed"]["table"][:vocab]}
    if "head" in params:
        params["head"] = {name: x[..., :vocab] for name, x in params["head"].items()}
    return Decoder(cfg), params


def load_lfe(
    folder: str | Path, devices: jax.sharding.Mesh, quantise: str = ""
) -> tuple[Any, LFEConfig, PyTree, ChatFormat, dict[str, Any]]:
    """(backbone module, LFE config, {"backbone", "lfe"}, chat format, facts) of a retrofit's OUT or OUT/lfe.

    quantise: as in `load_backbone`. Raises BackboneMismatch when the backbone that it names has other weights now.
    """
    folder = part_of_run(folder, ("lfe",))
    facts = _facts(folder, "lfe", "a retrofit's OUT/lfe")
    base = _backbone_of(folder, facts, devices, quantise)
    own = _own(folder, devices, base.model, facts)
    lfe = config.from_dict(LFEConfig, facts["lfe"])
    return base.model, lfe, {"backbone": base.params, **own}, base.chat, facts


def cut_for_person(
    backbone: Any, parts: PyTree, facts: dict[str, Any], depths: tuple[int, ...]
) -> tuple[Any, PyTree, dict[str, Any]]:
    """What `load_lfe` gave, its backbone cut where the layers at `depths` begin and end, so that A(p) can change them.

    Args:
      backbone: the module.
      parts: "backbone", "lfe" and perhaps a retrofit's "lfe_delta".
      facts: of the folder; they learn of the cuts, so that a model saved with them is loaded so too.
      depths: of the layers, from 0; empty: the top quarter.

    Raises InsideError for a depth that is not there, and for an encoder.
    """
    old = backbone.cfg
    if not isinstance(old, DecoderConfig):
        raise InsideError(f"{facts['backbone']} is an encoder: it gives Z, but it cannot answer")
    new = dataclasses.replace(old, cuts=cuts_between(depths, old))
    parts, facts = dict(parts), {**facts, "cuts": list(new.cuts)}
    if old == new:
        return backbone, parts, facts
    parts["backbone"] = recut(parts["backbone"], old, new)
    if "lfe_delta" in parts:
        sizes = [list(stack_sizes(c.layers, c.cuts).values()) for c in (old, new)]
        parts["lfe_delta"] = deltas.restack(parts["lfe_delta"], *sizes)
        facts["lora"] = {**facts["lora"], "stacks": "|".join(parts["lfe_delta"].stacks)}
    # Older folders know their backbone by the arrays as they lie, and these change with the cuts.
    if "base_hash" not in facts:
        facts["backbone_hash"] = checkpoint.fingerprint(parts["backbone"])
    return backbone.clone(cfg=new), parts, facts


def save_personal(
    folder: str | Path,
    lm: PersonalLM,
    encoder: ProfileEncoder,
    params: PyTree,
    tenants: list[str],
    facts: dict[str, Any],
) -> None:
    """Writes a personal model, all but its backbone.

    Args:
      folder: where; what lies there is replaced as a whole.
      lm: the model, whose config is kept.
      encoder: from evidence to p; its config is kept.
      params: all parts without the backbone.
      tenants: names of the rows of params["profile"].
      facts: of `load_lfe`: "backbone" and "base_hash", its cuts and the LFE's LoRA; "pages", a `PagesConfig` as JSON,
        where it was trained with pages in front of questions.
    """
    told = {
        "personal": config.to_dict(lm.cfg),
        "encoder": config.to_dict(encoder.cfg),
        "tenants": list(tenants),
        **place_facts(folder, facts["backbone"]),
        **{
            name: facts[name]
            for name in (
                "backbone", "base_hash", "backbone_hash", "cuts", "lora", "sentinels", "pages"
            )
            if name in facts
        },
    }  # fmt: skip
    checkpoint.save_params(folder, params, told)


def load_personal(
    folder: str | Path, devices: jax.sharding.Mesh, quantise: str = "", head: str = ""
) -> Personal:
    """A whole personal model from its folder, the backbone from where the folder says it lies.

    Args:
      folder: a universal stage's OUT or OUT/model.
      devices: the mesh that the weights are placed on.
      quantise: "nf4", "int8" or "bf16" for the backbone's kernels, as in `load_backbone`.
      head: "nf4" or "int8" for the kernels of the generative head, which is then for decoding and not for training.

    Raises BackboneMismatch, CheckpointError, ModelMissing, ModelError, and QuantError for a kind that is not known or a
    model without a head of its own.
    """
    folder = part_of_run(folder, ("model",))
    facts = _facts(folder, "personal", "a personal model's folder, a universal stage's OUT/model")
    base = _backbone_of(folder, facts, devices, quantise)
    params = {"backbone": base.params, **_own(folder, devices, base.model, facts)}
    if head:
        if "head" not in params:
            raise quant.QuantError(f"{folder} has no head to quantise: there the backbone answers")
        # After loading: the folder keeps the head's floats, and how it is served is the caller's choice.
        params["head"] = quant.place(devices, quant.quantise_params(params["head"], head))
    lm = PersonalLM(base.model, config.from_dict(PersonalConfig, facts["personal"]))
    encoder = ProfileEncoder(config.from_dict(ProfileEncoderConfig, facts["encoder"]))
    return Personal(lm, encoder, params, base.chat, tuple(facts["tenants"]), facts)


def _backbone_of(
    folder: str | Path, facts: dict[str, Any], devices: jax.sharding.Mesh, quantise: str
) -> ModelFolder:
    """The backbone that the facts name, if it is still the one that they mean."""
    # With the cuts that it was trained with, because the Deltas' paths name stacks.
    base = load_backbone(facts["backbone"], devices, tuple(facts.get("cuts", ())), quantise)
    if "base_hash" in facts:
        wanted, now = facts["base_hash"], base.hashed
    elif quantise:
        raise RunError(
            f"{folder} knows its backbone by the weights in memory alone, so it goes with whole weights: load it"
            " without quantise, or train it again"
        )
    else:
        wanted, now = facts["backbone_hash"], checkpoint.fingerprint(base.params)
    if wanted != now:
        raise BackboneMismatch(
            f"{folder} was trained on a backbone with hash {wanted}, but {facts['backbone']} has"
            f" {now} now: train it again, or put the old backbone back"
        )
    return base


def _own(
    folder: str | Path, devices: jax.sharding.Mesh, backbone: Any, facts: dict[str, Any]
) -> PyTree:
    """The saved parameters; a retrofit's LoRA, which lies there as nested dicts, is a Delta again."""
    own = checkpoint.load_params(folder, devices)
    if "lfe_delta" in own:
        spec = config.from_dict(DeltaConfig, facts["lora"])
        like = shapes(type(backbone).sites(backbone.cfg), spec)
        leaves = dict(paths(own["lfe_delta"]))
        put = lambda keys, _: leaves[mesh.path_of(keys)]
        own["lfe_delta"] = jax.tree_util.tree_map_with_path(put, like)
    return own


def _facts(folder: str | Path, needed: str, what: str) -> dict[str, Any]:
    if (Path(folder).expanduser() / "config.json").is_file():
        raise RunError(f"{folder} is a language model, and not {what}")
    facts = checkpoint.load_facts(folder)
    hashed = "base_hash" if "base_hash" in facts else "backbone_hash"  # older folders have this one
    if missing := {needed, "backbone", hashed} - set(facts):
        raise RunError(f"{folder} is not {what}: its facts.json lacks {sorted(missing)[0]!r}")
    return facts | {"backbone": place_of(folder, facts)} if "base" in facts else facts

"""A personal model's folder: everything but the backbone, which it names and recognises by its hash.

FOLDER/params       lfe, head, hypernet, encoder, profile
FOLDER/facts.json   configs of all parts, the backbone's place and hash, the tenants of the profile table
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

from jaxrec import checkpoint, config, mesh
from jaxrec.config import RunError
from jaxrec.data.text import Tokenizer
from jaxrec.delta import DeltaConfig, shapes
from jaxrec.hub.weights import check_vocabulary, find, load, model_of
from jaxrec.models.personal.lfe import LFEConfig
from jaxrec.models.personal.personal_lm import PersonalConfig, PersonalLM
from jaxrec.models.personal.profile import ProfileEncoder, ProfileEncoderConfig
from jaxrec.training.partition import paths


class BackboneMismatch(RunError, ValueError):
    """Small parts that were trained on another backbone than the one at hand."""


@dataclasses.dataclass(frozen=True)
class Personal:
    """A loaded personal model. `params` has "backbone" in it as well; `tenants` names the rows of params["profile"]."""

    lm: PersonalLM
    encoder: ProfileEncoder
    params: PyTree
    tok: Tokenizer
    tenants: tuple[str, ...]
    facts: dict[str, Any]


def load_backbone(
    source: str, devices: jax.sharding.Mesh, cuts: tuple[int, ...] = ()
) -> tuple[Any, PyTree, Tokenizer]:
    """(module, params placed on the mesh, tokenizer) of an HF folder or hub id, their vocabularies checked."""
    at = lambda tree: mesh.shardings(devices, tree)
    cfg, params = load(source, shardings=at, cuts=cuts)
    tok = Tokenizer.load(find(source) / "tokenizer.json")
    check_vocabulary(tok.size, cfg)
    return model_of(cfg), params, tok


def load_teacher(source: str, backbone: Any, devices: jax.sharding.Mesh) -> tuple[Any, PyTree]:
    """(module, params placed on the mesh) of a decoder to distil from.

    Raises RunError when its vocabulary is not that of `backbone`, a module.
    """
    cfg, params = load(source, shardings=lambda tree: mesh.shardings(devices, tree))
    if cfg.vocab != backbone.cfg.vocab:
        raise RunError(
            f"teacher {source} has {cfg.vocab} tokens, the backbone {backbone.cfg.vocab}: "
            "a teacher must share the backbone's tokenizer"
        )
    return model_of(cfg), params


def load_lfe(
    folder: str | Path, devices: jax.sharding.Mesh
) -> tuple[Any, LFEConfig, PyTree, Tokenizer, dict[str, Any]]:
    """(backbone module, LFE config, {"backbone", "lfe"}, tokenizer, facts) of a retrofit's OUT/lfe.

    Raises BackboneMismatch when the backbone that it names has other weights now.
    """
    facts = _facts(folder, "lfe", "a retrofit's OUT/lfe")
    backbone, weights, tok = load_backbone(facts["backbone"], devices, _cuts(facts))
    _same_backbone(weights, facts, folder)
    own = _own(folder, devices, backbone, facts)
    return (
        backbone,
        config.from_dict(LFEConfig, facts["lfe"]),
        {"backbone": weights, **own},
        tok,
        facts,
    )


def save_personal(
    folder: str | Path,
    lm: PersonalLM,
    encoder: ProfileEncoder,
    params: PyTree,
    tenants: list[str],
    facts: dict[str, Any],
) -> None:
    """Writes a personal model; `params` without the backbone, `facts` with "backbone" and "backbone_hash"."""
    told = {
        "personal": config.to_dict(lm.cfg),
        "encoder": config.to_dict(encoder.cfg),
        "tenants": list(tenants),
        **{
            name: facts[name]
            for name in ("backbone", "backbone_hash", "cuts", "lora")
            if name in facts
        },
    }
    checkpoint.save_params(folder, params, told)


def load_personal(folder: str | Path, devices: jax.sharding.Mesh) -> Personal:
    """A whole personal model from its folder, the backbone from where the folder says it lies.

    Raises BackboneMismatch, CheckpointError, ModelMissing, ModelError.
    """
    facts = _facts(folder, "personal", "a personal model's folder, a universal stage's OUT/model")
    backbone, weights, tok = load_backbone(facts["backbone"], devices, _cuts(facts))
    _same_backbone(weights, facts, folder)
    params = {"backbone": weights, **_own(folder, devices, backbone, facts)}
    lm = PersonalLM(backbone, config.from_dict(PersonalConfig, facts["personal"]))
    encoder = ProfileEncoder(config.from_dict(ProfileEncoderConfig, facts["encoder"]))
    return Personal(lm, encoder, params, tok, tuple(facts["tenants"]), facts)


def _cuts(facts: dict[str, Any]) -> tuple[int, ...]:
    return tuple(facts.get("cuts", ()))


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
    facts = checkpoint.load_facts(folder)
    if missing := {needed, "backbone", "backbone_hash"} - set(facts):
        raise RunError(f"{folder} is not {what}: its facts.json lacks {sorted(missing)[0]!r}")
    return facts


def _same_backbone(weights: PyTree, facts: dict[str, Any], folder: str | Path) -> None:
    found = checkpoint.fingerprint(weights)
    if found != facts["backbone_hash"]:
        raise BackboneMismatch(
            f"{folder} was trained on a backbone with hash {facts['backbone_hash']}, but {facts['backbone']} has"
            f" {found} now: train it again, or put the old backbone back"
        )

"""Onboarded tenants as a folder: what the stages `personalize` and `prefer` write, and what answers in their voices.

FOLDER/params       p [U, E] of tenants that answer by it, p_encoder [U, E] what was inferred; delta, a bank of Deltas
FOLDER/facts.json   "tenants", U keys; "model", the personal model's folder; "own", keys of the bank's rows, and its
                    layout "own_delta"; "sources", where the tenants were read from; "told", what the pages before
                    a question come from, where the model was trained with pages
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrec import checkpoint, config, files, mesh
from jaxrec.config import RunError
from jaxrec.data import turns
from jaxrec.data.tenant import Dialogue, Page, Tenant, Turn
from jaxrec.delta import DeltaConfig, shapes
from jaxrec.models.language.model_folder import part_of_run, place_facts, place_of
from jaxrec.models.personal.onboarding import infer_p, read_pieces
from jaxrec.models.personal.personal_folder import Personal
from jaxrec.models.personal.personal_lm import PersonalLM
from jaxrec.structs import Delta
from jaxrec.training.partition import paths


@dataclasses.dataclass(frozen=True)
class Profile:
    """Tenants of one personal model. A tenant in `own` answers by its row of `delta`, any other by its row of p.

    p_UE: None where nobody answers by p. inferred_UE: the encoder's p, where it was kept. spec: layout of `delta`.
    told: names, pages and what was asked of them, of those whose model answers from pages.
    """

    tenants: tuple[str, ...]
    model: str
    p_UE: np.ndarray | None
    inferred_UE: np.ndarray | None = None
    own: tuple[str, ...] = ()
    delta: Delta | None = None
    spec: DeltaConfig = DeltaConfig()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    told: tuple[Tenant, ...] = ()


def save_profile(folder: str | Path, profile: Profile) -> None:
    """Writes the folder, replacing what was there."""
    named = {"p": profile.p_UE, "p_encoder": profile.inferred_UE, "delta": profile.delta}
    facts = {**profile.facts, "tenants": list(profile.tenants), "model": profile.model}
    facts |= place_facts(folder, profile.model)
    if profile.own:
        facts |= {"own": list(profile.own), "own_delta": config.to_dict(profile.spec)}
    if profile.told:
        facts |= {"told": [_told(tenant) for tenant in profile.told]}
    checkpoint.save_params(folder, {k: v for k, v in named.items() if v is not None}, facts)


def load_profile(folder: str | Path, lm: PersonalLM) -> Profile:
    """The tenants of a folder for the model that they belong to (`model_of_profile`).

    Raises CheckpointError for no such folder, and RunError for one that is something else.
    """
    folder = part_of_run(folder, ("profile",))
    facts = profile_facts(folder)
    saved = checkpoint.load_params(folder)
    own, spec, delta = tuple(facts.get("own", ())), DeltaConfig(), None
    if "delta" in saved:
        if "own_delta" not in facts:
            raise RunError(f"{folder} does not say how its Deltas lie: onboard its tenants again")
        spec = config.from_dict(DeltaConfig, facts["own_delta"])
        # A checkpoint knows nested dicts only: the Delta's layout comes from sites and spec, its leaves by path.
        like = shapes(lm.sites, spec, len(own))
        leaves = dict(paths(saved["delta"]))
        put = lambda keys, _: np.asarray(leaves[mesh.path_of(keys)])
        delta = jax.tree_util.tree_map_with_path(put, like)
    array = lambda name: np.asarray(saved[name]) if name in saved else None
    return Profile(
        tuple(facts["tenants"]), facts["model"], array("p"), array("p_encoder"), own, delta, spec, facts,
        tuple(_tenant(row) for row in facts.get("told", ())),
    )  # fmt: skip


def _told(tenant: Tenant) -> dict[str, Any]:
    """What of a tenant a page is found by, as JSON."""
    asked = [(d.question, d.answer, list(d.pages)) for d in tenant.onboarding if d.pages]
    pages = [(page.id, page.title, page.text) for page in tenant.pages]
    return {"key": tenant.key, "name": tenant.name, "pages": pages, "asked": asked}


def _tenant(row: Mapping[str, Any]) -> Tenant:
    said = lambda asked, answer: (Turn("customer", asked), Turn("assistant", answer))
    asked = tuple(
        Dialogue(str(i), said(question, answer), pages=tuple(pages))
        for i, (question, answer, pages) in enumerate(row["asked"])
    )
    pages = tuple(Page(*parts) for parts in row["pages"])
    return Tenant(row["key"], row["name"], pages=pages, onboarding=asked)


def profile_facts(folder: str | Path) -> dict[str, Any]:
    """The facts of a profile's folder, or of the OUT that it lies in. Raises RunError where it is no such folder."""
    if not str(folder):
        raise RunError("name a profile, a personalize stage's OUT/profile, with --profile")
    folder = part_of_run(folder, ("profile",))
    facts = checkpoint.load_facts(folder)
    if missing := {"tenants", "model"} - set(facts):
        raise RunError(
            f"{folder} is no profile, a personalize stage's OUT/profile: its facts.json lacks {sorted(missing)[0]!r}"
        )
    return facts | {"model": place_of(folder, facts)} if "base" in facts else facts


def find_personal(folder: str | Path) -> tuple[str, str]:
    """(a personal model's folder, a profile's folder or "") of a stage's OUT or of what lies in it.

    Raises RunError for a folder that is neither.
    """
    place = part_of_run(folder, ("profile", "model"))
    whole = files.whole_folder(Path(place).expanduser(), "facts.json")
    facts = checkpoint.load_facts(whole) if whole else {}
    if "personal" in facts:
        return place, ""
    if {"tenants", "model"} <= set(facts):
        return profile_facts(place)["model"], place
    if "lfe" in facts:
        what = "it is a retrofit; train.universal makes a personal model of it"
    elif Path(place).expanduser().is_dir():
        what = (
            "it is a language model; train.retrofit and train.universal make a personal one of it"
        )
    else:
        what = "there is no such folder"
    raise RunError(
        f"{folder} is no personal model: {what}. A universal stage's OUT is meant, or a personalize stage's"
    )


def find_profile(folder: str | Path) -> str:
    """A profile's folder of a stage's OUT or of OUT/profile. Raises RunError for a model, and as `find_personal`."""
    model, own = find_personal(folder)
    if not own:
        raise RunError(
            f"{folder} is no profile but a model, {model}: a personalize stage's OUT is meant"
        )
    return own


def sources_of(
    facts: Mapping[str, Any], given: Sequence[str], folder: str | Path
) -> tuple[str, ...]:
    """Where a profile's tenants are to be read from: what is given, else where they were onboarded from.

    Raises RunError for a profile that does not say.
    """
    sources = tuple(given) or tuple(facts.get("sources", ()))
    if not sources:
        raise RunError(
            f"{folder} does not say where its tenants came from: name a folder of tenants, a .jsonl of them, or the"
            " sample world's (world:held) with --tenants"
        )
    return sources


def starting_p(
    model: Personal,
    tenants: Sequence[Tenant],
    profile: str = "",
    *,
    examples: int = 30,
    judged: int = 8,
    piece: int = 40,
) -> np.ndarray:
    """[U, E]: a p for each tenant.

    Args:
      model: the personal model.
      tenants: whose p is wanted.
      profile: a folder of `personalize` or `prefer` with their p; else the encoder reads what is known of them.
      examples: dialogues that it reads of each.
      judged: thumbs that it reads of each.
      piece: tokens of one of them.

    Raises RunError for a tenant that the profile does not know, or that has no p there.
    """
    if profile:
        # p as it was left by an earlier stage, not as it would be inferred: what the gradient found is kept.
        known = load_profile(profile, model.lm)
        # A tenant with a Delta of its own has no p that training could start from.
        places = {key: u for u, key in enumerate(known.tenants) if key not in known.own}
        if missing := [tenant.key for tenant in tenants if tenant.key not in places]:
            raise RunError(f"{profile} has no p of a tenant {missing[0]!r}")
        return known.p_UE[[places[tenant.key] for tenant in tenants]]
    pieces = turns.evidence_pieces(model.chat, tenants, piece, examples=examples, judged=judged)
    known_z = read_pieces(model.lm, model.params, pieces)
    return np.asarray(infer_p(model.encoder, model.params["encoder"], known_z, examples))

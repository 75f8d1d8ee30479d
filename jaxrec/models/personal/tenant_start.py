"""Floor 3: where tenants' p begin before it is tuned: what the encoder infers, or what an earlier stage found."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxrec import checkpoint
from jaxrec.config import RunError
from jaxrec.data import turns
from jaxrec.models.personal.onboarding import infer_p, read_pieces
from jaxrec.models.personal.personal_folder import Personal
from jaxrec.world.businesses import read_businesses
from jaxrec.world.tenants import generate


def starting_p(
    model: Personal,
    names: Sequence[str],
    profile: str = "",
    *,
    examples: int = 30,
    judged: int = 8,
    piece: int = 40,
) -> np.ndarray:
    """[U, E]: a p for each tenant of the sample world named.

    profile: a folder of `personalize` or `prefer` with their p; else the profile encoder reads their guides, `examples`
    answers and the first `judged` thumbs. Raises RunError for a tenant that is not known there.
    """
    if profile:
        known = checkpoint.load_facts(profile)["tenants"]
        _all_known(names, known, profile)
        p_UE = np.asarray(checkpoint.load_params(Path(profile))["p"])
        return p_UE[[known.index(name) for name in names]]
    tenants = {tenant.key: tenant for tenant in [*generate(), *read_businesses()]}
    _all_known(names, tenants, "the sample world")
    chosen = [tenants[name] for name in names]
    pieces = turns.evidence_pieces(model.chat, chosen, piece, examples=examples, judged=judged)
    known_z = read_pieces(model.lm, model.params, pieces)
    return np.asarray(infer_p(model.encoder, model.params["encoder"], known_z, examples))


def _all_known(names: Sequence[str], known: Sequence[str], where: str) -> None:
    if missing := [name for name in names if name not in known]:
        raise RunError(f"{where} has no tenant {missing[0]!r}")

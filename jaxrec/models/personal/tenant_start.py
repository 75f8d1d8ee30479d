"""Floor 3: where tenants' p begin before it is tuned: what the encoder infers, or what an earlier stage found."""

from collections.abc import Sequence

import numpy as np

from jaxrec.config import RunError
from jaxrec.data import turns
from jaxrec.data.tenant import Tenant
from jaxrec.models.personal.onboarding import infer_p, read_pieces
from jaxrec.models.personal.personal_folder import Personal
from jaxrec.models.personal.profile_folder import load_profile


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
        known = load_profile(profile, model.lm)
        places = {key: u for u, key in enumerate(known.tenants) if key not in known.own}
        if missing := [tenant.key for tenant in tenants if tenant.key not in places]:
            raise RunError(f"{profile} has no p of a tenant {missing[0]!r}")
        return known.p_UE[[places[tenant.key] for tenant in tenants]]
    pieces = turns.evidence_pieces(model.chat, tenants, piece, examples=examples, judged=judged)
    known_z = read_pieces(model.lm, model.params, pieces)
    return np.asarray(infer_p(model.encoder, model.params["encoder"], known_z, examples))

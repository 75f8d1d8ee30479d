"""Floor 4: one short function per training stage: what is forwarded, what is penalised, what is counted.

Each returns an `Objective`. A stage, its script in train/ and its config bear the same name.
"""

from jaxrec.objectives.deepmf import RatingDecay, deepmf, deepmf_tables
from jaxrec.objectives.objective import Objective
from jaxrec.objectives.personal import (
    RetrofitParts,
    RetrofitWeights,
    personalize,
    personalize_delta,
    pretrain,
    retrofit,
    universal,
)

__all__ = [
    "Objective",
    "RatingDecay",
    "RetrofitParts",
    "RetrofitWeights",
    "deepmf",
    "deepmf_tables",
    "personalize",
    "personalize_delta",
    "pretrain",
    "retrofit",
    "universal",
]

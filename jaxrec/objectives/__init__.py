"""Floor 4: one short function per training stage: what is forwarded, what is penalised, what is counted.

Each returns an `Objective`. A stage, its script in train/ and its config bear the same name.
"""

from jaxrec.objectives.bpr import bpr, bpr_tables
from jaxrec.objectives.deepmf import RatingDecay, deepmf, deepmf_tables
from jaxrec.objectives.editor import editor
from jaxrec.objectives.generative_rec import generative_rec, tiger
from jaxrec.objectives.objective import Objective
from jaxrec.objectives.personal import (
    RetrofitParts,
    RetrofitWeights,
    personalize,
    personalize_delta,
    pretrain,
    retrofit,
    retrofit_params,
    universal,
    universal_params,
)
from jaxrec.objectives.policy import policy
from jaxrec.objectives.ppo import GrpoLoss, PpoLoss, grpo, ppo
from jaxrec.objectives.prefer import prefer
from jaxrec.objectives.profiles import profiles
from jaxrec.objectives.restraint import Restraint
from jaxrec.objectives.semantic_id import SemanticIdWeights, semantic_id
from jaxrec.objectives.sequential import SequentialLoss, sequential
from jaxrec.objectives.sft import sft

__all__ = [
    "GrpoLoss",
    "Objective",
    "PpoLoss",
    "RatingDecay",
    "Restraint",
    "RetrofitParts",
    "RetrofitWeights",
    "SemanticIdWeights",
    "SequentialLoss",
    "bpr",
    "bpr_tables",
    "deepmf",
    "deepmf_tables",
    "editor",
    "generative_rec",
    "grpo",
    "personalize",
    "personalize_delta",
    "policy",
    "ppo",
    "prefer",
    "pretrain",
    "profiles",
    "retrofit",
    "retrofit_params",
    "semantic_id",
    "sequential",
    "sft",
    "tiger",
    "universal",
    "universal_params",
]

"""RQ-VAE ids of Amazon 2014 Beauty: MiniLM vectors of "Title | Brand | Categories", 3 x 256 codes and one that numbers
the items of a tuple.

    JAXREC_DATA=... python -m train.semantic_id configs/recommend/beauty_semantic_id.py
"""

from jaxrec.data.interaction_sets import DataConfig
from jaxrec.train.semantic_id import TrainSemanticIdConfig

config = TrainSemanticIdConfig(
    data=DataConfig("amazon14-beauty"),
    out="runs/beauty_semantic_id",
)

"""Amazon Beauty, full ranking: GRU4Rec with full cross-entropy, the recurrent baseline.

python -m eval.recommend configs/beauty_gru.py

Begun, not run to its end: some 90 ms a step on two cores, so 25 minutes a seed for all 16,800 steps, fewer where it
stops early; most of it is the softmax over the items.
"""

from eval.recommend_ranking import RankingConfig
from jaxrec.data.interaction_sets import DataConfig
from jaxrec.models.gru import GRUConfig
from jaxrec.objectives.sequential import SequentialLoss
from jaxrec.recommenders.sequential import SequentialConfig

config = RankingConfig(
    name="beauty_gru",
    model="GRU4Rec, cross-entropy",
    data=DataConfig("amazon14-beauty"),
    recommender=SequentialConfig(model=GRUConfig(), loss=SequentialLoss("full")),
    bar="report",
    peer="S3-Rec's table .0283 / .0137 (its own loss)",
)

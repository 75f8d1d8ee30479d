"""Amazon Beauty, full ranking: GRU4Rec with full cross-entropy, the recurrent baseline.

python -m eval.recommend configs/beauty_gru.py

Projected from measured steps, not run: 5 s an epoch on two idle cores, 4 to 6 minutes a seed; most of it is the softmax
over the items.
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

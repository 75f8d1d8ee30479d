"""Amazon Beauty, full ranking: GRU4Rec with full cross-entropy, the recurrent baseline.

python -m eval.recommend configs/recommend/beauty_gru.py

Stops after some 45 of 200 epochs, the best one near the 33rd: some 90 ms a step on two cores, so about six minutes a
seed. Three seeds: R@10 .0658 +- .0018, N@10 .0377; history not masked .0615, .0342.
"""

from jaxrec.data.interaction_sets import DataConfig
from jaxrec.eval.recommend_ranking import RankingConfig
from jaxrec.models.items.gru import GRUConfig
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

"""Amazon Sports, full ranking: SASRec with binary cross-entropy and one negative, as in S3-Rec's table.

python -m eval.recommend configs/sports_sasrec_bce.py
"""

from eval.recommend_ranking import RankingConfig
from jaxrec.data.interaction_sets import DataConfig
from jaxrec.objectives.sequential import SequentialLoss
from jaxrec.recommenders.sequential import SequentialConfig

config = RankingConfig(
    name="sports_sasrec_bce",
    model="SASRec, BCE",
    data=DataConfig("amazon14-sports"),
    recommender=SequentialConfig(loss=SequentialLoss("bce")),
    bar="R@10 .0350, N@10 .0192",
    peer="S3-Rec's table",
)

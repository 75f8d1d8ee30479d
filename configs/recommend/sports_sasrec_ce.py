"""Amazon Sports, full ranking: SASRec with full cross-entropy over all items.

    python -m eval.recommend configs/recommend/sports_sasrec_ce.py

Seed 0 of record (`--seeds 0`): R@10 .0541, N@10 .0327 with the history masked, .0499 / .0239 without, as RecBole's
users report it (.048 / .0227); 17 minutes on two busy cores, 3.9 GB.
"""

from jaxrec.data.interaction_sets import DataConfig
from jaxrec.eval.recommend_ranking import RankingConfig
from jaxrec.objectives.sequential import SequentialLoss
from jaxrec.recommenders.sequential import SequentialConfig

config = RankingConfig(
    name="sports_sasrec_ce",
    model="SASRec, cross-entropy",
    data=DataConfig("amazon14-sports"),
    recommender=SequentialConfig(loss=SequentialLoss("full")),
    bar="report",
    peer="RecBole users .048 / .0227, history not masked",
)

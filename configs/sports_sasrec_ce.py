"""Amazon Sports, full ranking: SASRec with full cross-entropy over all items.

    python -m eval.recommend configs/sports_sasrec_ce.py

Not run to the end yet; projected at 7 to 10 minutes a seed on two idle cores (18,357 items: an epoch costs 2.3 times
Beauty's 5 seconds).
"""

from eval.recommend_ranking import RankingConfig
from jaxrec.data.interaction_sets import DataConfig
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

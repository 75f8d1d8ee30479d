"""Amazon Beauty, full ranking: SASRec with full cross-entropy over all items.

    python -m eval.recommend configs/recommend/beauty_sasrec_ce.py

Some 38 epochs of 5 seconds on two idle cores, early stopping at patience 10. Three seeds: R@10 .0935 +- .0012, N@10
.0572; with the history not masked, as RecBole's users rank, .0851 +- .0007 and .0425.
"""

from jaxrec.data.interaction_sets import DataConfig
from jaxrec.eval.recommend_ranking import RankingConfig
from jaxrec.objectives.sequential import SequentialLoss
from jaxrec.recommenders.sequential import SequentialConfig

config = RankingConfig(
    name="beauty_sasrec_ce",
    model="SASRec, cross-entropy",
    data=DataConfig("amazon14-beauty"),
    recommender=SequentialConfig(loss=SequentialLoss("full")),
    bar="R@10 .082, N@10 .041",
    peer="RecBole users .083 / .0416, history not masked",
)

"""The sample world's three shops by the sampled protocol (among 99 uniform negatives): floor, item-kNN, and the oracle.

    python -m eval.recommend configs/recommend/world_sampled.py

Seconds on two cores, no data set needed. Bar: R@10 above .4 where popularity stays under .25, among 100
items of a world whose tastes were planted: it is no number of a public set.
"""

from jaxrec.eval.recommend_ranking import RankingConfig, SampleWorld
from jaxrec.recommenders.item_knn import ItemKNNConfig

config = RankingConfig(
    name="world_sampled",
    model="item-kNN",
    data=SampleWorld(),
    recommender=ItemKNNConfig(),
    protocol="sampled-100",
    bar="R@10 .4, popularity under .25",
)

"""Item-kNN on Amazon Sports (2014, 5-core): who took this also took that.

    python -m eval.recommend configs/recommend/sports_item_knn.py

Seconds on two cores (titles are embedded once, a minute or two).
Neighbours and shrink were chosen on the validation people.
"""

from jaxrec.data.interaction_sets import DataConfig
from jaxrec.eval.recommend_ranking import RankingConfig
from jaxrec.recommenders.item_knn import ItemKNNConfig

config = RankingConfig(
    name="sports_item_knn",
    model="item-kNN",
    data=DataConfig("amazon14-sports"),
    recommender=ItemKNNConfig(),
)

"""Item-kNN on MovieLens-1M (films with 5 ratings or more): who took this also took that.

    python -m eval.recommend configs/recommend/ml1m_item_knn.py

Seconds on two cores (titles are embedded once, a minute or two).
Neighbours and shrink were chosen on the validation people.
"""

from jaxrec.data.interaction_sets import DataConfig
from jaxrec.eval.recommend_ranking import RankingConfig
from jaxrec.recommenders.item_knn import ItemKNNConfig

config = RankingConfig(
    name="ml1m_item_knn",
    model="item-kNN",
    data=DataConfig("ml-1m", file="sequences.txt.gz", min_item=5),
    recommender=ItemKNNConfig(),
    ks=(5, 10, 50, 200),
)

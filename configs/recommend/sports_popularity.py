"""Popularity on Amazon Sports (2014, 5-core).

    python -m eval.recommend configs/recommend/sports_popularity.py

Seconds on two cores. R@10 .0091, N@10 .0052.
"""

from jaxrec.data.interaction_sets import DataConfig
from jaxrec.eval.recommend_ranking import RankingConfig
from jaxrec.recommenders.popularity import PopularityConfig

config = RankingConfig(
    name="sports_popularity",
    model="popularity",
    data=DataConfig("amazon14-sports"),
    recommender=PopularityConfig(),
)

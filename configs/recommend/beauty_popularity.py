"""Popularity on Amazon Beauty (2014, 5-core): what every other row has to leave behind.

    python -m eval.recommend configs/recommend/beauty_popularity.py

Seconds on two cores; the first run on a set also embeds its titles for the diversity column (a minute or two).
R@10 .0110 with ties against the target; lists that break ties by item number hit .0115.
"""

from jaxrec.data.interaction_sets import DataConfig
from jaxrec.eval.recommend_ranking import RankingConfig
from jaxrec.recommenders.popularity import PopularityConfig

config = RankingConfig(
    name="beauty_popularity",
    model="popularity",
    data=DataConfig("amazon14-beauty"),
    recommender=PopularityConfig(),
)

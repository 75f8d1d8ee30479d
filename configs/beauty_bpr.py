"""BPR-MF on Amazon Beauty (2014, 5-core): who, without when.

python -m eval.recommend configs/beauty_bpr.py
"""

from eval.recommend_ranking import RankingConfig
from jaxrec.data.interaction_sets import DataConfig
from jaxrec.recommenders.bpr import BPRConfig

config = RankingConfig(
    name="beauty_bpr",
    model="BPR-MF",
    data=DataConfig("amazon14-beauty"),
    recommender=dataclasses.replace(BPRConfig(), opt=dataclasses.replace(BPRConfig().opt, lr=5e-3)),
)

"""BPR-MF on Amazon Beauty (2014, 5-core): who, without when.

    python -m eval.recommend configs/recommend/beauty_bpr.py

Three seeds of some 30 epochs, two seconds each on two cores. The learning rate was chosen on the validation people.
"""

from jaxrec.data.interaction_sets import DataConfig
from jaxrec.eval.recommend_ranking import RankingConfig
from jaxrec.recommenders.bpr import BPRConfig
from jaxrec.training.optimizer import OptConfig

config = RankingConfig(
    name="beauty_bpr",
    model="BPR-MF",
    data=DataConfig("amazon14-beauty"),
    recommender=BPRConfig(opt=OptConfig(lr=5e-3, schedule="constant", b2=0.999, clip=0.0)),
)

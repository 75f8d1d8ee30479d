"""CDRIB's pair Video Games and Video, both ways: people cold in one shop, known from the other.

    JAXREC_DATA=... python -m eval.recommend configs/recommend/cdrib_game_video.py

Three seeds (--seeds 0 1 2) take a minute of one core, 1.1 GB. MRR, cold in games: .065, linear mapping .053 (paired
difference .012 [.005, .020]), popularity .029; cold in video: .092, .075 (.017 [.010, .026]), .041. R@10 in games is
above the mapping's, but not surely (.012 [-.002, .026]). The test was run once with an earlier model, one seed (games:
MRR .059, mapping .052, .007 [-.001, .015]); what changed since was chosen on validation, and the test run once more.
"""

from jaxrec.data.interaction_sets import DataConfig
from jaxrec.eval.recommend_cross import CrossShopConfig

config = CrossShopConfig(
    name="cdrib_game_video",
    data=DataConfig("cdrib-game_video"),
    bar="paired lower bound above popularity and above a linear mapping",
)

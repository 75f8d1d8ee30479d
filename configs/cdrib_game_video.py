"""CDRIB's pair Video Games and Video, both ways: people cold in one shop, known from the other.

    JAXREC_DATA=... python -m eval.recommend configs/cdrib_game_video.py

Two cores: about a minute. 999 negatives, as CDRIB asks; expected above popularity and above the linear mapping.
"""

from eval.recommend_cross import CrossShopConfig
from jaxrec.data.interaction_sets import DataConfig

config = CrossShopConfig(
    name="cdrib_game_video",
    data=DataConfig("cdrib-game_video"),
    bar="paired lower bound above popularity and above a linear mapping",
)

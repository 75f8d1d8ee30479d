"""The three shops of the sample world: what people would buy in the shop where they never were.

    python -m eval.recommend configs/recommend/shops_sample.py

Two cores: seconds. R@10 of cold people among all items of the shop: .56; oracle .73, popularity .22.
"""

from jaxrec.eval.recommend_cross import CrossShopConfig
from jaxrec.recommenders.cross_domain import CrossDomainConfig
from jaxrec.recommenders.implicit_als import ALSConfig

config = CrossShopConfig(
    name="shops_sample",
    recommender=CrossDomainConfig(als=ALSConfig(width=12), overlap=(0.0, 1.0, 5.0)),
    seeds=(0, 1, 2),
    bar="R@10 above .4, popularity under .25",
)

"""Beauty, full ranking: the generative recommender of beauty_generative on RQ-k-means ids.

    JAXREC_DATA=... python -m eval.recommend configs/recommend/beauty_generative_rqkmeans.py

Three codes of 256 an item, distinct because rivals for a code are dealt out anew on the last level; no extra code.
"""

import dataclasses

from jaxrec.configs.recommend.beauty_generative import config as rqvae
from jaxrec.recommenders.item_codes import SemanticIdConfig

config = dataclasses.replace(
    rqvae,
    name="beauty_generative_rqkmeans",
    model="generative, decoder-only, RQ-k-means ids",
    recommender=dataclasses.replace(
        rqvae.recommender,
        ids=SemanticIdConfig("rqkmeans", collisions="reassign"),
        ids_folder="runs/beauty_rqkmeans",
    ),
    seeds=(0,),
    peer="GRID, RQ-k-means ids, .0655",
)

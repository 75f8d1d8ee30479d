"""Beauty, full ranking: the generative recommender of beauty_generative in its flat form, every code a token.

JAXREC_DATA=... python -m eval.recommend configs/recommend/beauty_generative_flat.py
"""

import dataclasses

from jaxrec.configs.recommend.beauty_generative import config as nested

config = dataclasses.replace(
    nested,
    name="beauty_generative_flat",
    model="generative, decoder-only, one token a code",
    recommender=dataclasses.replace(
        nested.recommender, model=dataclasses.replace(nested.recommender.model, form="flat")
    ),
    seeds=(0,),
)

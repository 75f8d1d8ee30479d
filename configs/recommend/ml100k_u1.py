"""The best DeepMF variants on ML-100K's canonical split, u1.base / u1.test, and the floors there.

    python -m eval.recommend_rating configs/recommend/ml100k_u1.py

About five minutes on two idle cores for three seeds (projected). RMSE of seed 0: .9505 as specified, .9094 without
times, .896 with them; GC-MC and IGMC have .905, GLocal-K .889. The models are those of ml100k_best.py; their settings
were chosen on a validation part cut at random from u1.base.
"""

from jaxrec.configs.recommend.ml100k_best import models
from jaxrec.configs.recommend.ml100k_deepmf import config as specified
from jaxrec.eval.recommend_rating import RatingConfig

config = RatingConfig(
    name="ml100k_u1",
    protocol="blocks",
    folds=(0,),
    models=(*specified.models, *models),
    bar="RMSE .92, goal .905",
    peer="GC-MC .905, IGMC .905, GLocal-K .889",
)

"""DeepMF exactly as specified (64, 128-64-32-1, sigmoid, Adam 1e-3, 1024, 5 epochs) on ML-100K, 5-fold, and floors.

    python -m eval.recommend_rating configs/recommend/ml100k_deepmf.py

Three seeds of five folds, each trained on its 80 %: about six minutes on two cores. RMSE: see results/recommend;
Surprise's SVD has .9355 there.
"""

from jaxrec.eval.recommend_rating import RatingConfig, RatingModel
from jaxrec.recommenders.deepmf import DeepMFConfig
from jaxrec.recommenders.deepmf_fit import FitConfig

config = RatingConfig(
    name="ml100k_deepmf",
    models=(RatingModel("DeepMF as specified", (DeepMFConfig(fit=FitConfig(valid_share=0.0)),)),),
    peer="Surprise 5-fold: BaselineOnly .944, SVD .9355",
)

"""DeepMF as specified on MovieLens-100K (JAXREC_DATA/ml-100k), a random fifth held out.

    python -m train.deepmf configs/recommend/deepmf_ml100k.py

A quarter of a minute on two cores. RMSE .94 on the ratings held out; tables over folds are eval.recommend_rating's.
"""

from jaxrec.data.interaction_sets import DataConfig
from jaxrec.recommenders.deepmf import DeepMFConfig
from jaxrec.recommenders.deepmf_fit import FitConfig
from jaxrec.train.deepmf import DeepMFTraining

config = DeepMFTraining(
    data=DataConfig("ml-100k"),
    model=DeepMFConfig(fit=FitConfig(valid_share=0.0, progress=True)),
    out="runs/ml100k/deepmf",
)

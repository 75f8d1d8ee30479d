"""The best DeepMF variants on ML-100K, random 5-fold: biases, dot product, features; with and without times.

    python -m eval.recommend_rating configs/recommend/ml100k_best.py --seeds 0

Six minutes on two cores for one seed: RMSE .8963 (Surprise's SVD: .9355), .8798 with the ratings' times.
Widths, rates and L2 were chosen on a validation part cut at random from u1.base (so ratings that are some fold's test
were seen then); epochs are chosen per fold on a tenth of its training ratings.
"""

import dataclasses

from jaxrec.eval.recommend_rating import RatingConfig, RatingModel
from jaxrec.models.items.deepmf import DeepMFShape
from jaxrec.objectives import RatingDecay
from jaxrec.recommenders.deepmf import DeepMFConfig
from jaxrec.recommenders.deepmf_fit import FitConfig
from jaxrec.training.optimizer import OptConfig

ADAM = OptConfig(lr=3e-3, schedule="cosine", end=0.1, b2=0.999, clip=0.0)
FIT = FitConfig(epochs=20, opt=ADAM, valid_share=0.1, refit=True, updates=16, devices=1)
SHAPE = DeepMFShape(hidden=(), output="linear", biases=True, dot=True, features=True, init_std=0.1)
DECAY = RatingDecay(rows=0.42, biases=0.02, shared=0.2)

factors = DeepMFConfig(SHAPE, DECAY, FIT)
deep = DeepMFConfig(
    dataclasses.replace(SHAPE, hidden=(64, 32), dropout=0.5),
    DECAY,
    dataclasses.replace(FIT, epochs=12),
)


def timed(member: DeepMFConfig) -> DeepMFConfig:
    """The same, reading also the person's training ratings within a second, a minute, five, and an hour."""
    shape = dataclasses.replace(member.shape, user_windows=(0.0, 60.0, 300.0, 3600.0))
    return dataclasses.replace(member, shape=shape)


BOTH = (factors, deep)
models = (
    RatingModel("DeepMF: dot, biases, features", (factors,)),
    RatingModel("ensemble of two: that, and with the MLP", BOTH),
    RatingModel("DeepMF: dot, biases, features, times", (timed(factors),)),
    RatingModel("ensemble of the same two, times", tuple(map(timed, BOTH))),
)

config = RatingConfig(
    name="ml100k_best",
    models=models,
    floors=False,
    bar="RMSE .9355, goal .91",
    peer="Surprise SVD .9355, SVD++ .92",
)

"""MovieLens-1M, length 200, full ranking: SASRec with cross-entropy over all items (the public one: 128 sampled).

    python -m eval.recommend configs/recommend/ml1m_sasrec.py

33 epochs, 27 minutes beside another training on two cores: R@10 .2927, N@10 .1663 (the public one: .2853).
"""

from jaxrec.data.interaction_sets import DataConfig
from jaxrec.eval.recommend_ranking import RankingConfig
from jaxrec.models.items.sequential import SASRecConfig
from jaxrec.objectives.sequential import SequentialLoss
from jaxrec.recommenders.sequential import SequentialConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

config = RankingConfig(
    name="ml1m_sasrec",
    model="SASRec, cross-entropy",
    data=DataConfig("ml-1m", min_item=5),  # 3,416 items, as published
    recommender=SequentialConfig(
        model=SASRecConfig(max_length=200, dropout=0.2, attention_dropout=0.2),
        loss=SequentialLoss("full"),
        opt=OptConfig(lr=1e-3, schedule="cosine", b2=0.999, clip=0.0),
        width=200,
        positions=6400,
        epochs=36,
        valid_every=3,
        loop=LoopConfig(monitor="N@10", mode="max", patience=0, log_every=100, save_every=500),
    ),
    ks=(5, 10, 50, 200),
    seeds=(0,),
    bar="R@10 .2853, N@10 .1603",
    peer="HSTU's README: SASRec, sampled softmax",
)

"""MovieLens-1M, length 200, full ranking: HSTU with cross-entropy over all items (the public one: 128 sampled).

    python -m eval.recommend configs/recommend/ml1m_hstu.py

100 epochs of 12 seconds on two idle cores, 34 minutes beside another training. Seed 0: R@10 .3038, N@10 .1742. The
public row, which has times for its relative bias (the file here has none): .3097, .1720. 36 epochs: .2978, .1693.
"""

from jaxrec.data.interaction_sets import DataConfig
from jaxrec.eval.recommend_ranking import RankingConfig
from jaxrec.models.items.hstu import HSTUConfig
from jaxrec.objectives.sequential import SequentialLoss
from jaxrec.recommenders.sequential import SequentialConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

config = RankingConfig(
    name="ml1m_hstu",
    model="HSTU, cross-entropy",
    data=DataConfig("ml-1m", min_item=5),  # 3,416 items, as published
    recommender=SequentialConfig(
        model=HSTUConfig(d_model=64, heads=2, head_dim=32),
        loss=SequentialLoss("full"),
        opt=OptConfig(lr=1e-3, schedule="cosine", b2=0.999, clip=0.0),
        width=200,
        positions=6400,
        epochs=100,
        valid_every=5,
        loop=LoopConfig(monitor="N@10", mode="max", patience=0, log_every=100, save_every=500),
    ),
    ks=(5, 10, 50, 200),
    seeds=(0,),
    bar="R@10 .3097, N@10 .1720",
    peer="HSTU's README: HSTU, sampled softmax",
)

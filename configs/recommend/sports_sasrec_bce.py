"""Amazon Sports, full ranking: SASRec with binary cross-entropy and one negative, the loss of S3-Rec's table.

    python -m eval.recommend configs/recommend/sports_sasrec_bce.py

The original pre-norm form (Kang & McAuley 2018) with dropout .5, early stopping after 20 epochs without a better one.
Settings as chosen on Beauty's validation people. Ten minutes a seed beside another training on two cores: R@10 .0353,
N@10 .0191 (S3-Rec's table: .0350).
"""

from jaxrec.data.interaction_sets import DataConfig
from jaxrec.eval.recommend_ranking import RankingConfig
from jaxrec.models.items.sequential import SASRecConfig
from jaxrec.objectives.sequential import SequentialLoss
from jaxrec.recommenders.sequential import SequentialConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

config = RankingConfig(
    name="sports_sasrec_bce",
    model="SASRec, BCE",
    data=DataConfig("amazon14-sports"),
    recommender=SequentialConfig(
        model=SASRecConfig(form="pre", d_ff=64),
        loss=SequentialLoss("bce"),
        epochs=100,
        opt=OptConfig(lr=1e-3, schedule="cosine", b2=0.999, clip=0.0),
        loop=LoopConfig(monitor="N@10", mode="max", patience=40, log_every=100, save_every=1000),
    ),
    bar="R@10 .0350, N@10 .0192",
    peer="S3-Rec's table",
)

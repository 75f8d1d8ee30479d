"""SASRec with full cross-entropy on the sample world's 480 people and 324 items.

python -m train.sequential configs/recommend/sequential_sample.py
"""

from jaxrec.models.items.sequential import SASRecConfig
from jaxrec.objectives.sequential import SequentialLoss
from jaxrec.recommenders.sequential import SequentialConfig
from jaxrec.train.sequential import TrainSequentialConfig
from jaxrec.training.loop import LoopConfig

config = TrainSequentialConfig(
    recommender=SequentialConfig(
        model=SASRecConfig(d_model=32, d_ff=64, max_length=32, dropout=0.3, attention_dropout=0.3),
        loss=SequentialLoss("full"),
        width=32,
        positions=512,
        epochs=60,
        loop=LoopConfig(monitor="N@10", mode="max", patience=8, log_every=50),
    ),
    out="runs/sample/sequential",
)

"""A generative recommender on the sample world's 480 people and 324 items; ids from who is taken near whom.

python -m train.generative_rec configs/recommend/generative_sample.py
"""

from jaxrec.models.items.code_layers import LayersConfig
from jaxrec.models.items.generative_rec import CodeDecoderConfig
from jaxrec.models.items.semantic_id import RqVaeConfig
from jaxrec.recommenders.generative_rec import GenerativeRecConfig
from jaxrec.recommenders.item_codes import SemanticIdConfig
from jaxrec.train.generative_rec import TrainGenerativeRecConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

config = TrainGenerativeRecConfig(
    recommender=GenerativeRecConfig(
        ids=SemanticIdConfig(
            vae=RqVaeConfig(hidden=(64,), d_latent=16, sizes=(16, 16)),
            warm=100,
            rows=256,
            loop=LoopConfig(steps=300, log_every=100, progress=False),
        ),
        together=32,
        model=CodeDecoderConfig(
            layers=LayersConfig(d_model=48, layers=2, heads=2, head_dim=24, d_ff=96, dropout=0.3),
            d_depth=96,
        ),
        max_length=32,
        width=32,
        rows=32,
        smoothing=0.1,
        epochs=60,
        evaluate_every=5,
        opt=OptConfig(lr=3e-3, warmup=20, weight_decay=0.05),
        loop=LoopConfig(monitor="N@10", mode="max", patience=4, log_every=50),
    ),
    out="runs/sample/generative",
)

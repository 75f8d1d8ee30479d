"""Beauty, full ranking: TIGER's encoder-decoder on the same ids, as in the paper. For a GPU.

    JAXREC_DATA=... python -m eval.recommend configs/recommend/beauty_tiger.py

Not run to the end. A step of 256 examples takes 7 CPU seconds. So an epoch (514 steps: every place of every
history is an example) takes an hour of CPU, half an hour of wall, and 200 epochs some four days. An epoch of the
decoder-only form takes 14 CPU seconds (nested, 3 layers) or 29 (flat).
"""

import dataclasses

from jaxrec.configs.recommend.beauty_generative import config as decoder_only
from jaxrec.models.items.tiger import TigerConfig
from jaxrec.recommenders.generative_rec import GenerativeRecConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

config = dataclasses.replace(
    decoder_only,
    name="beauty_tiger",
    model="TIGER, encoder-decoder",
    recommender=GenerativeRecConfig(
        ids_folder=decoder_only.recommender.ids_folder,
        texts=decoder_only.data,
        tiger=TigerConfig(),
        max_length=20,
        rows=256,
        epochs=200,
        evaluate_every=4,
        sample=5000,
        people=512,
        opt=OptConfig(lr=1e-3, warmup=1000, weight_decay=0.035, b2=0.98),
        loop=LoopConfig(monitor="N@10", mode="max", patience=10, log_every=100),
    ),
    seeds=(0,),
    bar="R@10 .059",
    peer="TIGER's paper .0648, re-implementations .056-.059 in 3-5 GPU hours",
)

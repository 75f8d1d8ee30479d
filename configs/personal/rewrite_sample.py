"""Rewriting drafts in the voice of the sample world's tenants, from the universal model on.

python -m train.rewrite configs/personal/rewrite_sample.py
python -m eval.rewrite --model runs/rewrite_sample/model

Needs `configs/personal/universal_sample.py` first. Not measured yet.
"""

from jaxrec.train.rewrite import RewriteConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

config = RewriteConfig(
    model="runs/sample/universal/model",
    tenants=("world:train:240",),
    each=30,
    opt=OptConfig(lr=1e-3, warmup=20),
    loop=LoopConfig(steps=300),
    out="runs/rewrite_sample",
)

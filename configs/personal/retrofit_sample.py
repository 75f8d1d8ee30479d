"""Retrofit of the sample world's backbone, with itself as teacher.

    python -m train.retrofit configs/personal/retrofit_sample.py

A minute on two cores. At the end, from Z alone: 1.6 nats from the teacher, 99 % of paraphrases and of topics right.
"""

from jaxrec.models.personal.lfe import LFEConfig
from jaxrec.train.retrofit import RetrofitConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

config = RetrofitConfig(
    backbone="runs/sample/pretrain/model",
    tenants=("world:train",),
    data=("world:instructions",),
    lfe=LFEConfig(d_z=128, top_k=3),
    rows=32,
    opt=OptConfig(lr=3e-3, warmup=20),
    loop=LoopConfig(steps=100, eval_every=20, patience=3, min_delta=0.005),
    out="runs/sample/retrofit",
)

"""Retrofit of SmolLM2-135M-Instruct, a real language model: its states are computed once and read by every epoch.

    python -m jaxrec.hub.fetch smollm2
    python -m train.retrofit configs/personal/smollm2_retrofit.py

Small, because it is the demo's: 64 conversations, four epochs of them. On two cores shared by eight (not timed alone)
two minutes for the states and four for 32 steps of 5 s.
"""

from jaxrec.data.feature_store import FeatureConfig
from jaxrec.models.personal.lfe import LFEConfig
from jaxrec.train.retrofit import RetrofitConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

config = RetrofitConfig(
    backbone="smollm2",
    tenants=("world:train",),
    limit=64,
    lfe=LFEConfig(d_z=128, top_k=3),
    reader_tied=True,
    context=32,
    length=40,
    rows=8,
    opt=OptConfig(lr=3e-3, warmup=5),
    loop=LoopConfig(steps=32, eval_every=8, patience=3, min_delta=0.005),
    features=FeatureConfig("runs/smollm2/features"),
    out="runs/smollm2/retrofit",
)

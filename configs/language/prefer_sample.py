"""DPO of each unseen tenant's p alone: the sample world's preference pairs, thirty a tenant, the last ten held out.

    python -m train.prefer configs/language/prefer_sample.py

Needs the sample world's universal model (configs/personal/universal_sample.py).
"""

from jaxrec.train.prefer import PreferConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

config = PreferConfig(
    personal="runs/sample/universal/model",
    tenants=("world:held",),
    rows=32,
    # no clipping: by the norm over all rows one tenant's gradient would slow the others
    opt=OptConfig(lr=3e-2, schedule="linear", clip=0.0),
    loop=LoopConfig(steps=100, eval_every=50, monitor="held_accuracy", mode="max"),
    out="runs/prefer_sample",
)

"""DPO with a LoRA on the small backbone: Anthropic's harmless-base test pairs, a tenth of the prompts held out.

    JAXREC_DATA=... python -m train.prefer configs/language/prefer_hh.py

The reference's log-probabilities are computed once, in the first minute.
"""

from jaxrec.delta import DeltaConfig
from jaxrec.train.prefer import PreferConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

config = PreferConfig(
    base="runs/backbone_small/model",
    data=("hh_rlhf",),
    delta=DeltaConfig(lora_rank=16, lora_alpha=32.0),
    length=256,
    buckets=(128,),
    opt=OptConfig(lr=1e-3, warmup=10, schedule="linear"),
    loop=LoopConfig(steps=100, eval_every=50, monitor="held_accuracy", mode="max"),
    out="runs/prefer_hh",
)

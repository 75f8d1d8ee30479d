"""The person inside the sample world's backbone: A(p) changes its two top layers, and it answers without a head.

    python -m train.universal configs/personal/inside_sample.py

Nineteen minutes on two cores beside other programs (not timed alone). Held-out dialogues: 0.55 nats a token; of
unseen tenants 0.99, and 1.10 with everybody's mean p in place of their own, so p is worth 0.11. Of 16 unseen
tenants: 0.725, with int8 kernels 0.725, with NF4 0.732. Takes what the retrofit left, as the universal head does:
p is inferred from Z of a tenant's texts.
"""

from jaxrec.delta import DeltaConfig
from jaxrec.train.universal import UniversalConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

config = UniversalConfig(
    lfe="runs/sample/retrofit/lfe",
    tenants=("world:train",),
    held=("world:held",),
    person="backbone",
    inside=DeltaConfig(norm=True, lora_rank=8, lora_sites="q|v|up|down"),
    depths=(2, 3),
    d_p=64,
    rows=32,
    opt=OptConfig(lr=3e-3, warmup=20),
    loop=LoopConfig(steps=480, eval_every=240, monitor="unseen_nll"),
    out="runs/sample/inside",
)

"""The tenants of smollm2_personalize, each with a LoRA of its own on SmolLM2's top twelve layers in place of p.

python -m train.personalize configs/personal/smollm2_lora.py
"""

import dataclasses

from jaxrec.configs.personal.smollm2_personalize import config as by_p
from jaxrec.training.optimizer import OptConfig

config = dataclasses.replace(
    by_p,
    by="lora",
    from_p=True,
    opt=OptConfig(lr=2e-3, schedule="linear", clip=0.0),
    loop=dataclasses.replace(by_p.loop, steps=40),
    out="runs/smollm2/lora",
)

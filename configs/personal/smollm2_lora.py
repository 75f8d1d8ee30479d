"""The tenants of smollm2_personalize, each with a LoRA of its own on SmolLM2's top twelve layers in place of p.

python -m train.personalize configs/personal/smollm2_lora.py

It begins as A(p) of the p that the encoder infers. With the right page before the question generated tenants then have
.32 nats a token, style 1.00 and facts .67 after 40 steps; one that began at zero (rank 8, lr 4e-3, as many steps) .84,
.98 and .33. Hand-written ones: 1.89 nats, style .83, facts .22; from zero 1.77, .86, .44 (of nine answers). Some 6 CPU
seconds a step.
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

"""Onboarding of the sample world's unseen tenants, generated and hand-written, from 30 examples each.

    python -m train.personalize configs/personal/personalize_sample.py

Under a minute on two cores for 50 tenants at once.
"""

from jaxrec.train.personalize import PersonalizeConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

config = PersonalizeConfig(
    model="runs/sample/universal/model",
    tenants=("world:held",),
    examples=30,
    opt=OptConfig(lr=3e-2, schedule="linear", clip=0.0),
    loop=LoopConfig(steps=100),
    out="runs/sample/personalize",
)

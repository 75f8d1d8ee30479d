"""Onboarding of the sample world's unseen tenants, generated and hand-written, from 30 examples each.

    python -m train.personalize configs/personalize_sample.py

Under a minute on two cores for 50 tenants at once.
"""

from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig
from train.personalize import PersonalizeConfig

config = PersonalizeConfig(
    model="runs/sample/universal/model",
    examples=30,
    opt=OptConfig(lr=3e-2, schedule="linear", clip=0.0),
    loop=LoopConfig(steps=100),
    out="runs/sample/personalize",
)

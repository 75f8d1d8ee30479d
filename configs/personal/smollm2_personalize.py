"""Onboarding of unseen tenants to SmolLM2, generated and hand-written ones, each by a p fitted through its own layers.

    python -m train.personalize configs/personal/smollm2_personalize.py

The states below the changed layers are computed once, so that the epochs cost the upper twelve layers alone. Sixty
steps of 8 answers, some three passes over 150: 5 CPU seconds a step on two cores that twenty others share.
"""

from jaxrec.data.feature_store import FeatureConfig
from jaxrec.dialogue.pages import PagesConfig
from jaxrec.train.personalize import PersonalizeConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

UNSEEN = (
    "pet_groomer_004",
    "tailor_009",
    "framer_014",
    "kestrel_travel",
    "moss_garden",
)

config = PersonalizeConfig(
    model="runs/smollm2/universal/model",
    tenants=tuple(f"world:{key}" for key in UNSEEN),
    examples=30,
    judged=0,
    pages=PagesConfig("right", length=80, share=0.85),
    question=120,
    answer=88,
    piece=32,
    quantise="bf16",
    rows=8,
    opt=OptConfig(lr=3e-2, schedule="linear", clip=0.0),
    loop=LoopConfig(steps=60),
    features=FeatureConfig("runs/smollm2/features"),
    out="runs/smollm2/personalize",
)

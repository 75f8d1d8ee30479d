"""Onboarding to the person inside the backbone: `personalize` as ever, p fitted through the backbone's own layers.

python -m train.personalize configs/personal/inside_personalize_sample.py
"""

import dataclasses

from jaxrec.configs.personal.personalize_sample import config as sample

config = dataclasses.replace(
    sample, model="runs/sample/inside/model", out="runs/sample/inside_personalize"
)

"""POPQUORN offensiveness: 262 people, 1,500 texts, 13,036 labels from 1 to 5 (Pei and Jurgens 2023).

JAXREC_DATA=... python -m eval.personalize configs/popquorn.py --out runs/popquorn
"""

from eval.personalize import PersonalizeConfig
from jaxrec.data.judgements import JudgementsConfig

config = PersonalizeConfig(
    name="popquorn",
    data=JudgementsConfig(
        files=("popquorn/offensiveness.csv.gz",),
        person="user_id",
        item="instance_id",
        label="offensiveness",
    ),
    out="runs/popquorn",
)

"""MultiPICo irony (LeWiDi 2025, development and test files): 506 people, 9 languages, 6,759 exchanges (Casola 2024).

JAXREC_DATA=... python -m eval.personalize configs/multipico.py --out runs/multipico
"""

from eval.personalize import PersonalizeConfig
from jaxrec.data.judgements import JudgementsConfig

config = PersonalizeConfig(
    name="multipico",
    data=JudgementsConfig(
        files=("lewidi/LeWiDi_3-2025__MP_dev.json.gz", "lewidi/LeWiDi_3-2025__MP_test.json.gz"),
    ),
    out="runs/multipico",
)

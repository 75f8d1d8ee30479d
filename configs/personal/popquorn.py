"""POPQUORN offensiveness: 262 people, 1,500 texts, 13,036 labels from 1 to 5 (Pei and Jurgens 2023).

    JAXREC_DATA=... python -m eval.personalize configs/personal/popquorn.py --out runs/popquorn

Headline and settings were chosen with `--validate`, before the test folds were run. There, at k = 30 (accuracy, NLL):
own p by gradient .619, 1.027; by encoder .616, 1.035; pooled .587, 1.155; mean p .580, 1.158; another's p .540, 1.286.

Test folds, k = 30: own p by gradient .601 [.574, .627], 1.040; pooled with one bias a label of their own .603, 1.054
(p minus it: accuracy -.002 [-.013, .007], NLL -.013 [-.025, -.002]); a LoRA of their own .579, 1.119; pooled .561,
1.192; mean p .564, 1.195; another's p .498, 1.401. 125 CPU seconds; reading the texts the first time, as many more.

Offset and slope a label, their prior learned (own_effects): .600, 1.041 at k = 30. Minus the bias: accuracy
-.003 [-.011, .005], NLL -.013 [-.021, -.005]; NLL at k = 10 -.012 [-.023, -.002], at k = 1 .001 [-.012, .013], at k = 0
.011 [.004, .019]. Its settings were chosen with the split of `--validate`; NLL minus the bias there, at k = 30:
-.012 [-.020, -.005].
"""

from jaxrec.data.judgements import JudgementsConfig
from jaxrec.eval.personalize import PersonalizeConfig
from jaxrec.models.personal.item_labels import LoraConfig

config = PersonalizeConfig(
    name="popquorn",
    data=JudgementsConfig(
        files=("popquorn/offensiveness.csv.gz",),
        person="user_id",
        item="instance_id",
        label="offensiveness",
    ),
    headline="own_p_gradient",
    lora=LoraConfig(steps=30, decay=10.0),
    out="runs/popquorn",
)

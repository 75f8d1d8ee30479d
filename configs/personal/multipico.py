"""MultiPICo irony (LeWiDi 2025, development and test files): 506 people, 9 languages, 6,759 exchanges (Casola 2024).

    JAXREC_DATA=... python -m eval.personalize configs/personal/multipico.py --out runs/multipico

Headline and settings were chosen with `--validate`, before the test folds were run. There, at k = 30 (accuracy, NLL):
own p by gradient .689, .581; by encoder .689, .582; pooled .673, .609; mean p .675, .611; another's p .661, .629.

Test folds, k = 30: own p by gradient .695 [.680, .709], .574; pooled with one bias a label of their own .691, .576 (p
minus it: accuracy .004 [-.002, .009], NLL -.002 [-.005, .000]); a LoRA of their own .688, .589; pooled .677, .608;
mean p .679, .606; another's p .670, .628. Four minutes of CPU on an idle machine; reading the texts the first time,
as many more.

Offset and slope a label, their prior learned (own_effects): .696, .575 at k = 30. Minus the bias: accuracy
.005 [.001, .009], NLL -.001 [-.003, .000]; NLL at k = 10 -.003 [-.004, -.001], at k = 1 -.002 [-.004, -.001], at k = 0
-.001 [-.002, .000]. Its settings were chosen on POPQUORN's validation split; on this set's,
NLL minus the bias at k = 30 is -.003 [-.005, -.001].
"""

from jaxrec.data.judgements import JudgementsConfig
from jaxrec.eval.personalize import PersonalizeConfig
from jaxrec.models.personal.item_labels import LoraConfig

config = PersonalizeConfig(
    name="multipico",
    data=JudgementsConfig(
        files=("lewidi/LeWiDi_3-2025__MP_dev.json.gz", "lewidi/LeWiDi_3-2025__MP_test.json.gz"),
    ),
    headline="own_p_gradient",
    lora=LoraConfig(steps=60, decay=30.0),
    out="runs/multipico",
)

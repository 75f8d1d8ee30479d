"""POPQUORN offensiveness under differential privacy: people for the shared weights, events for somebody's own p.

JAXREC_DATA=... python -m eval.private configs/personal/private_popquorn.py

Two minutes of CPU. Accuracy and NLL at k = 30: nothing hidden .577, 1.106; weights and p at epsilon 8 .579, 1.109; at 3
.576, 1.127; at 1 .570, 1.166; a stranger's p .565, 1.210, another's .542, 1.269.
"""

from jaxrec.data.judgements import JudgementsConfig
from jaxrec.eval.private import PrivateConfig

config = PrivateConfig(
    name="popquorn",
    data=JudgementsConfig(
        files=("popquorn/offensiveness.csv.gz",),
        person="user_id",
        item="instance_id",
        label="offensiveness",
    ),
)

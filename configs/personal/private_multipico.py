"""MultiPICo irony under differential privacy: people for the shared weights, events for somebody's own p.

JAXREC_DATA=... python -m eval.private configs/personal/private_multipico.py

Two minutes of CPU. Accuracy and NLL at k = 30: nothing hidden .686, .591; weights and p at epsilon 8 .682, .596; at 3
.678, .601; at 1 .674, .610; a stranger's p .675, .619, another's .665, .630.
"""

from jaxrec.data.judgements import JudgementsConfig
from jaxrec.eval.private import PrivateConfig

config = PrivateConfig(
    name="multipico",
    data=JudgementsConfig(
        files=("lewidi/LeWiDi_3-2025__MP_dev.json.gz", "lewidi/LeWiDi_3-2025__MP_test.json.gz"),
    ),
)

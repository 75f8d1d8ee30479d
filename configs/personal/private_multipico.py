"""MultiPICo irony under differential privacy: people for the shared weights, events for somebody's own p.

JAXREC_DATA=... python -m eval.private configs/personal/private_multipico.py
"""

from jaxrec.data.judgements import JudgementsConfig
from jaxrec.eval.private import PrivateConfig

config = PrivateConfig(
    name="multipico",
    data=JudgementsConfig(
        files=("lewidi/LeWiDi_3-2025__MP_dev.json.gz", "lewidi/LeWiDi_3-2025__MP_test.json.gz"),
    ),
)

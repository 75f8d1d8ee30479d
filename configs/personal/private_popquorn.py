"""POPQUORN offensiveness under differential privacy: people for the shared weights, events for somebody's own p.

JAXREC_DATA=... python -m eval.private configs/personal/private_popquorn.py
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

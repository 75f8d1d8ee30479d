"""Amazon Beauty by the sampled protocol (among 99 uniform negatives), as in S3-Rec's second table.

    python -m eval.recommend configs/beauty_sampled.py

SASRec with cross-entropy over all items; three seeds, ten seconds an epoch on two cores. R@10 above .47.
"""

import dataclasses

from configs.beauty_sasrec_ce import config as full

config = dataclasses.replace(
    full,
    name="beauty_sampled",
    protocol="sampled-100",
    bar="R@10 .47",
    peer="S3-Rec's table: SASRec-BCE .3741 .2848 .4696 .3156",
)

"""GenRec's flow on Amazon Beauty 2014: 12,101 real titles, 22,363 people, no ratings and no times.

    JAXREC_DATA=... python -m eval.recommend configs/recommend/genrec_flow_beauty.py

Nobody rates in this layout, so the sequence model (SASRec, full cross-entropy) re-ranks alone. Two CPU cores: some
three minutes for MiniLM over the titles and 5 s an epoch for SASRec the first time; both are kept in
runs/genrec_flow_beauty.

Held-out items asked for by brand and category, R@10: search alone .506, re-ranked .539, the flow with its diversity
.505 (N@10 .311, .366, .345); the specified ten of thirty .144.
"""

from jaxrec.data.interaction_sets import DataConfig
from jaxrec.eval.flow_parts import PartsConfig
from jaxrec.eval.recommend_flow import FlowConfig, Request
from jaxrec.objectives.sequential import SequentialLoss
from jaxrec.recommenders.sequential import SequentialConfig

config = FlowConfig(
    name="genrec_flow_beauty",
    parts=PartsConfig(
        data=DataConfig(name="amazon14-beauty"),
        sequential=SequentialConfig(loss=SequentialLoss("full"), epochs=60),
        out="runs/genrec_flow_beauty",
    ),
    requests=(
        Request("1", "red nail polish"),
        Request("2", "red nail polish"),
        Request("2", ""),
        Request("2", "красный лак для ногтей"),
        Request("a newcomer", "something for dry hair"),
        Request("a newcomer", ""),
        Request("a newcomer", "mascara", given=("7",)),
    ),
)

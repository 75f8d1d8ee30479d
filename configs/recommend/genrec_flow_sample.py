"""GenRec's flow on the sample world: three shops, planted tastes, no ratings (so no DeepMF).

    python -m eval.recommend configs/recommend/genrec_flow_sample.py

Two CPU cores: four minutes the first time. Held-out items asked for by brand and category, R@10: search alone .917,
the flow .931 (N@10 .509 and .750); the specified ten of thirty .142; without a query .237.
"""

from jaxrec.eval.flow_parts import PartsConfig
from jaxrec.eval.recommend_flow import FlowConfig, Request

config = FlowConfig(
    name="genrec_flow_sample",
    parts=PartsConfig(sample_world=True, out="runs/genrec_flow_sample"),
    requests=(
        Request("person_000", "something warm for a rainy evening"),
        Request("person_001", "something warm for a rainy evening"),
        Request("person_000", ""),
        Request("person_000", "что-нибудь сладкое"),
        Request("a newcomer", "pizza"),
        Request("a newcomer", "a snack", given=("item_000", "item_001")),
        Request("a newcomer", ""),
    ),
)

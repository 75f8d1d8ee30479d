"""GenRec's flow on the sample world: three shops, planted tastes, no ratings (so no DeepMF).

    python -m eval.recommend configs/genrec_flow_sample.py

Two CPU cores: about a minute the first time.
"""

from eval.flow_parts import PartsConfig
from eval.recommend_flow import FlowConfig, Request

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

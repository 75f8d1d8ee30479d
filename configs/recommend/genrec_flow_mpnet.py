"""GenRec's flow on the gift cards with the encoder that its specification names, all-mpnet-base-v2, in MiniLM's place.

    python -m jaxrec.hub.fetch mpnet
    JAXREC_DATA=... python -m eval.recommend_flow configs/recommend/genrec_flow_mpnet.py

All else is as in genrec_flow. COST. Two CPU cores: some five minutes for MPNet over the catalogue the first time.
"""

import dataclasses

from jaxrec.configs.recommend.genrec_flow import config as minilm

config = dataclasses.replace(
    minilm,
    name="genrec_flow_mpnet",
    parts=dataclasses.replace(minilm.parts, encoder="mpnet", out="runs/genrec_flow_mpnet"),
)

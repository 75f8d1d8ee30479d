"""RQ-VAE ids of Amazon 2014 Beauty as beauty_semantic_id makes them, from MPNet's vectors in place of MiniLM's.

    python -m jaxrec.hub.fetch mpnet
    JAXREC_DATA=... python -m train.semantic_id configs/recommend/beauty_semantic_id_mpnet.py

COST. Two CPU cores: MPNet reads 12,101 texts of at most 64 tokens, a quarter of an hour.
"""

import dataclasses

from jaxrec.configs.recommend.beauty_semantic_id import config as minilm

config = dataclasses.replace(minilm, encoder="mpnet", out="runs/beauty_semantic_id_mpnet")

"""DeepMF at the specification's size (728,000 people, 1.57 million items, 6.7 million ratings): row-lazy, dense Adam.

    python -m eval.deepmf_scale configs/deepmf_scale.py

MIN minutes and GB on two idle cores. SPEED interactions/s row-lazy, DENSE dense.
"""

from eval.deepmf_scale import DeepMFScale

config = DeepMFScale()

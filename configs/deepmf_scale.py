"""DeepMF at the specification's size (728,000 people, 1.57 million items, 6.7 million ratings): row-lazy, dense Adam.

    python -m eval.deepmf_scale configs/deepmf_scale.py

About two minutes and 3 GB on two idle cores (projected from the step's speed with 60,000 people); dense Adam's time for
all epochs is extrapolated from six steps.
"""

from eval.deepmf_scale import DeepMFScale

config = DeepMFScale()

"""DeepMF at the specification's size (728,000 people, 1.57 million items, 6.7 million ratings): row-lazy, dense Adam.

    python -m eval.deepmf_scale configs/recommend/deepmf_scale.py

Two minutes and 2.7 GB on two cores: 679,000 interactions a second, all five epochs of 5.4 million in 39 s, RMSE .851 on
the held-out fifth (the mean: 1.066). Dense Adam makes 4,300 a second in 3.1 GB (159 times slower); its time for
all epochs is extrapolated from seven steps.
"""

from jaxrec.eval.deepmf_scale import DeepMFScale

config = DeepMFScale()

"""Own p against mean, shuffled and no p on the sample world's unseen tenants.

    python -m eval.voices configs/personal/voices_sample.py

Half a minute on two cores. Style checks met by generated tenants' answers: own p 0.72, mean p 0.30, another's p 0.32.
"""

from jaxrec.eval.voices import VoicesConfig

config = VoicesConfig(profile="runs/sample/personalize/profile", out="results/voices")

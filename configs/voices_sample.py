"""Own p against mean, shuffled and no p on the sample world's unseen tenants.

python -m eval.voices configs/voices_sample.py
"""

from eval.voices import VoicesConfig

config = VoicesConfig(profile="runs/sample/personalize/profile", out="results/voices")

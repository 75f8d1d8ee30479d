"""Weights in fp32, bf16, int8 and NF4 under the same LoRA: losses on real text, and bytes, memory and time of a step.

    JAXREC_DATA=... python -m bench.quant configs/bench/quant_small.py

Needs runs/backbone_small/model (configs/language/backbone_small.py). Writes results/quant/losses.json and sizes.json.
Cost: about 25 minutes on two cores (15 runs of 150 steps; the 30M shape's steps take a minute together).
"""

from bench.quant import QuantConfig

config = QuantConfig()

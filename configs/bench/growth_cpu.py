"""How time and memory of a step grow with batch, length, layers, vocabulary, tenants, rows, items, tables and vectors.

    python -m bench.growth configs/bench/growth_cpu.py --fresh

Needs no data. Writes results/growth/cpu.json, cpu_time.png and cpu_memory.png. Cost: eight minutes and 4 GB on
two idle cores.
"""

from bench.growth import GrowthConfig

config = GrowthConfig()

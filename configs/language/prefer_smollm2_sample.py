"""DPO of SmolLM2-135M-Instruct on the sample world's preferences, tested on tenants that it has not seen.

    python -m jaxrec.hub.fetch smollm2
    python -m eval.prefer configs/language/prefer_smollm2_sample.py

As prefer_smollm2_hh: a LoRA on the top ten layers, 320 pairs of the world's training tenants once, tested on 240 of the
1,520 of its held-out ones. One LoRA speaks for all of them and is told nothing of the tenant, so what it can learn is
what an answer shows by itself: whether it keeps the voice that it begins in. Tenants' own p: prefer_sample_eval.

NUMBER. Reward accuracy .496 [.433, .559] on 240 pairs: chance, so what 320 pairs teach one LoRA about other tenants'
preferences is nothing. COST. 580 CPU seconds, 2.3 GB.
"""

import dataclasses

from jaxrec.configs.language.prefer_smollm2_hh import config as of_hh

config = dataclasses.replace(
    of_hh,
    name="smollm2_sample_world",
    data=("world:train",),
    held=("world:held",),
    system="Answer for the shop.",
)

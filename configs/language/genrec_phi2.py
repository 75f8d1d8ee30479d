"""GenRec's explanations as specified: QLoRA of Phi-2 (2.7B) on all instruction pairs.

    python -m jaxrec.rewards.instruction_pairs --out runs/genrec/pairs
    python -m train.sft configs/language/genrec_phi2.py

Not run here: the weights come from the Hugging Face hub, over a network, and the run wants a GPU.
"""

import dataclasses

from jaxrec.configs.language.genrec_llama2_7b import config as llama

config = dataclasses.replace(llama, base="microsoft/phi-2", out="runs/genrec_phi2")

"""GenRec's explanations as specified: QLoRA of Qwen2.5-0.5B-Instruct on all instruction pairs.

    python -m jaxrec.rewards.instruction_pairs --out runs/genrec/pairs
    python -m train.sft configs/language/genrec_qwen2_5_0_5b.py

Not run here: the weights come from the Hugging Face hub, over a network, and the run wants a GPU.
"""

import dataclasses

from jaxrec.configs.language.genrec_llama2_7b import config as llama

config = dataclasses.replace(
    llama, base="Qwen/Qwen2.5-0.5B-Instruct", out="runs/genrec_qwen2_5_0_5b"
)

"""GenRec's explanations as specified: QLoRA of Llama-2-7B on all instruction pairs.

    python -m jaxrec.rewards.instruction_pairs --out runs/genrec/pairs
    python -m train.sft configs/language/genrec_llama2_7b.py

Not run here: the weights come from the Hugging Face hub, over a network, and the run wants a GPU.
"""

import dataclasses

from jaxrec.configs.language.genrec_qlora import config as qlora

config = dataclasses.replace(
    qlora,
    base="meta-llama/Llama-2-7b-hf",
    data=("runs/genrec/pairs/train-00000.jsonl.gz",),
    held=("runs/genrec/pairs/valid-00000.jsonl.gz",),
    rows=16,
    accum=4,
    remat="full",
    opt=dataclasses.replace(qlora.opt, lr=2e-4, warmup=100),
    loop=dataclasses.replace(qlora.loop, steps=6000, eval_every=500),
    samples=dataclasses.replace(qlora.samples, every=500),
    out="runs/genrec_llama2_7b",
)

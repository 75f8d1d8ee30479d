"""GenRec's explanations as specified: QLoRA of Phi-2 (2.7B) on all instruction pairs.

    python -m jaxrec.dialogue.instruction_pairs --out runs/genrec/pairs
    python -m train.sft configs/genrec_phi2.py

Not run here: the weights come from the Hugging Face hub, over a network, and the run wants a GPU.
"""

import dataclasses

from configs.genrec_qlora import config as qlora

config = dataclasses.replace(
    qlora,
    base="microsoft/phi-2",
    data=("runs/genrec/pairs/train-00000.jsonl.gz",),
    held=("runs/genrec/pairs/valid-00000.jsonl.gz",),
    rows=16,
    accum=4,
    remat="full",
    opt=dataclasses.replace(qlora.opt, lr=2e-4, warmup=100),
    loop=dataclasses.replace(qlora.loop, steps=6000, eval_every=500),
    samples=dataclasses.replace(qlora.samples, every=500),
    out="runs/genrec_phi2",
)

"""LoRA and IA3 on the top third of SmolLM2-135M-Instruct for a bank's questions; the answers are written and compared.

    python -m jaxrec.hub.fetch smollm2
    JAXREC_DATA=... python -m eval.peft configs/language/peft_smollm2_bank.py

As peft_smollm2, smaller still: 400 of 860 rows, 30 answers written. No test question's answer occurs in training, so
what can be learned is the bank's way of answering. Not run yet: there is no table of record.
"""

import dataclasses

from jaxrec.configs.language.peft_smollm2 import config as of_bitext

config = dataclasses.replace(
    of_bitext,
    tasks=("bank-faqs",),
    methods=("none", "lora", "ia3"),
    sizes=dataclasses.replace(
        of_bitext.sizes, steps=150, train=400, valid=40, test=60, written=30, new=48, every=25,
        system="Answer for the bank.",
    ),
    memory=False,
    file="configs/language/peft_smollm2_bank.py",
)  # fmt: skip

"""Every PEFT method on the 2.4-million-parameter backbone: Bitext intents and a bank's answers, three seeds.

    JAXREC_DATA=... python -m train.pretrain configs/backbone_small.py
    JAXREC_DATA=... python -m eval.peft configs/peft_small.py

About 25 minutes on two idle cores (estimated from CPU time); resumable row by row.
"""

from eval.peft import PeftConfig

config = PeftConfig()

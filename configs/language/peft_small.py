"""Every PEFT method on the 2.4-million-parameter backbone: Bitext intents and a bank's answers, three seeds.

    JAXREC_DATA=... python -m train.pretrain configs/language/backbone_small.py
    JAXREC_DATA=... python -m eval.peft configs/language/peft_small.py

About 30 minutes on two idle cores; resumable row by row. 120 steps are few: no method is near its end (full fine-tuning
names .93 of Bitext's intents, LoRA's kind .58 - .62, adapters .21), and the small ones have hardly begun.
"""

from jaxrec.eval.peft import PeftConfig

config = PeftConfig()

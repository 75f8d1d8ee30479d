"""GenRec's explanations, first stage: LoRA (rank 16, alpha 32, dropout 0.1, on q k v o) on instruction pairs.

    python -m jaxrec.rewards.instruction_pairs --sets ml-100k amazon18-gift-cards --limit 2000 \\
        --templates rating/2 query/1 --out runs/genrec/few
    python -m train.sft configs/language/genrec_sft.py
    python -m train.sft configs/language/genrec_sft.py --delta.lora-sites '.*' --out runs/genrec/sft_ff  # feed-forward

XRec's training readers and rated films and gift cards, about an epoch. Eight minutes on two busy cores, after
`train.pretrain configs/language/backbone_shop.py`; held-out perplexity 12.95. All 109,077 pairs
(instruction_pairs without --limit) take a GPU.
"""

from jaxrec.delta import DeltaConfig
from jaxrec.models.language.sampled import SampleConfig
from jaxrec.train.sft import SftConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

config = SftConfig(
    base="runs/backbone_shop/model",
    data=("runs/genrec/few/train-00000.jsonl.gz",),
    held=("runs/genrec/few/valid-00000.jsonl.gz",),
    delta=DeltaConfig(lora_rank=16, lora_alpha=32.0, lora_sites="q|k|v|o"),
    lora_dropout=0.1,
    length=256,
    rows=16,
    opt=OptConfig(lr=3e-3, warmup=20),
    loop=LoopConfig(steps=300, eval_every=100, monitor="held_nll"),
    samples=SampleConfig(every=100),
    out="runs/genrec/sft",
)

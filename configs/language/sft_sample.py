"""LoRA on the sample world's dialogues and instructions, on the backbone of configs/language/backbone_sample.py.

    python -m train.pretrain configs/language/backbone_sample.py
    python -m train.sft configs/language/sft_sample.py
    python -m train.sft configs/language/sft_sample.py --method full --opt.lr 1e-3 --out runs/sample/sft_full

200 steps of 2,048 tokens: 40 seconds on two cores, samples included (DoRA).
"""

from jaxrec.models.language.sampled import SampleConfig
from jaxrec.train.sft import SftConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

config = SftConfig(
    base="runs/sample/pretrain/model",
    data=("world",),
    hold_out_every=50,
    length=128,
    rows=16,
    opt=OptConfig(lr=3e-3, warmup=20, schedule="linear"),
    loop=LoopConfig(steps=200, eval_every=100, save_every=100, monitor="held_nll", patience=3),
    samples=SampleConfig(every=100, new=40),
    out="runs/sample/sft",
)

"""A 2.4-million-parameter Llama on shop texts: reviews, item descriptions, readers' profiles, task dialogues.

    JAXREC_DATA=... python -m train.pretrain configs/language/backbone_shop.py

The language model under GenRec's explanations. It reads XRec's training people only, and none of the explanations;
their profiles, the smallest source, are read twice. Sixteen minutes and 1.8 GB on two busy cores;
1.44 bits a byte on the held-out fiftieth of the documents, reviews most of all.
"""

from jaxrec.nn.decoder import DecoderConfig
from jaxrec.train.pretrain import PretrainConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

config = PretrainConfig(
    texts=(
        "xrec",
        "xrec",
        "shop:amazon18-gift-cards",
        "shop:amazon14-musical-instruments-reviews",
        "shop:ml-100k",
        "sgd:dev",
    ),
    model=DecoderConfig(
        vocab=4096,
        d_model=192,
        layers=4,
        heads=6,
        groups=3,
        head_dim=32,
        d_ff=512,
        cuts=(1,),
        tied=True,
    ),
    length=256,
    rows=16,
    opt=OptConfig(lr=3e-3, warmup=50, weight_decay=0.01),
    loop=LoopConfig(steps=700, eval_every=175, save_every=175, monitor="bits_per_byte"),
    out="runs/backbone_shop",
)

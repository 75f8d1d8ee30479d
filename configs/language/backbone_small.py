"""A 2.4-million-parameter Llama on real text: task dialogues of 26 services (sgd) and one author's notes (twin_til).

    JAXREC_DATA=... python -m train.pretrain configs/language/backbone_small.py

Eleven minutes and 1.8 GB on two cores; 1.15 bits a byte on the held-out fiftieth of the documents.
"""

from jaxrec.nn.decoder import DecoderConfig
from jaxrec.train.pretrain import PretrainConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

config = PretrainConfig(
    texts=("sgd", "twin_til"),
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
    loop=LoopConfig(steps=600, eval_every=200, save_every=200, monitor="bits_per_byte"),
    out="runs/backbone_small",
)

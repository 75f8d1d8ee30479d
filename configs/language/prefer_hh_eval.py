"""Every preference loss with the same LoRA and steps on Anthropic's harmless-base pairs, beside the untuned model.

    JAXREC_DATA=... python -m eval.prefer configs/language/prefer_hh_eval.py

Ten minutes on two busy cores. By its own reward DPO is right in .573 of 429 held-out pairs, IPO .562, the others .53;
the untuned model's likelihood in .532, the shorter answer in .513: 800 pairs teach 2.4 million parameters next to
nothing.
"""

from jaxrec.eval.prefer import Contender, PreferEvalConfig
from jaxrec.losses.preference import PreferenceLoss

config = PreferEvalConfig(
    name="hh_rlhf",
    base="runs/backbone_small/model",
    data=("hh_rlhf",),
    contenders=(
        Contender("sigmoid", PreferenceLoss("sigmoid", 0.1)),
        Contender("ipo", PreferenceLoss("ipo", 0.1)),
        Contender("orpo", PreferenceLoss("orpo", 0.1)),
        Contender("simpo", PreferenceLoss("simpo", 2.0, gamma=1.0)),
        Contender("kto", PreferenceLoss("kto", 0.1)),
    ),
    length=192,
    rows=8,
    steps=100,
)

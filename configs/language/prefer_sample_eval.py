"""Every preference loss on unseen tenants' p alone, asked with their own, the mean and another's p; and on the head.

    python -m eval.prefer configs/language/prefer_sample_eval.py

Needs the sample world's universal model (universal_sample). Half an hour beside other programs on two cores,
perhaps ten minutes alone: own p .71 to .74 by every loss, .77 with the head; the mean p and another's .44 to .49.
"""

from jaxrec.eval.prefer import Contender, PreferEvalConfig
from jaxrec.losses.preference import PreferenceLoss

config = PreferEvalConfig(
    name="sample_world",
    personal="runs/sample/universal/model",
    tenants=("world:held",),
    contenders=(
        Contender("sigmoid", PreferenceLoss("sigmoid", 0.1), lr=3e-2),
        Contender("robust", PreferenceLoss("robust", 0.1, smoothing=0.1), lr=3e-2),
        Contender("hinge", PreferenceLoss("hinge", 0.1), lr=3e-2),
        Contender("ipo", PreferenceLoss("ipo", 0.1), lr=3e-2),
        Contender("orpo", PreferenceLoss("orpo", 1.0), lr=3e-2),
        Contender("simpo", PreferenceLoss("simpo", 2.0, gamma=1.0), lr=3e-2),
        Contender("kto", PreferenceLoss("kto", 0.1), lr=3e-2),
        Contender("sigmoid, head", PreferenceLoss("sigmoid", 0.1), lr=3e-4, train="head/.*"),
    ),
    rows=32,
    steps=100,
)

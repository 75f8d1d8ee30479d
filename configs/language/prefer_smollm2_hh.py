"""DPO of SmolLM2-135M-Instruct on Anthropic's harmless-base pairs: a LoRA on its top ten layers, 320 pairs once.

    python -m jaxrec.hub.fetch smollm2
    JAXREC_DATA=... python -m eval.prefer configs/language/prefer_smollm2_hh.py

The small sibling, for two cores: the state below the changed layers is computed once and kept on disk; a conversation
keeps its last 96 tokens; at most 240 held-out pairs are tested. The rate is the toy's and was not searched for.

NUMBER. Reward accuracy .542 [.471, .611] on 190 held-out pairs, .016 [-.068, .105] above the untuned likelihood's: not
sure to be above chance; more pairs were not tried. COST. 540 CPU seconds, 2.3 GB. With
more hardware, every pair, layer and token: --train-pairs 0 --test-pairs 0 --top 0 --length 512 --steps 230 --rows 8.
"""

from jaxrec.data.feature_store import FeatureConfig
from jaxrec.eval.prefer import Contender, PreferEvalConfig
from jaxrec.losses.preference import PreferenceLoss

config = PreferEvalConfig(
    name="smollm2_hh_rlhf",
    base="smollm2",
    data=("hh_rlhf",),
    contenders=(Contender("sigmoid", PreferenceLoss("sigmoid", 0.1)),),
    train_pairs=320,
    test_pairs=240,
    system="Answer well.",
    top=10,
    features=FeatureConfig("runs/smollm2/features"),
    length=96,
    rows=4,
    steps=80,
    work="runs/prefer_smollm2",
)

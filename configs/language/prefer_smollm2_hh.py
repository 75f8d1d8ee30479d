"""DPO of SmolLM2-135M-Instruct on Anthropic's harmless-base pairs: a LoRA on its top ten layers, 200 pairs once.

    python -m jaxrec.hub.fetch smollm2
    JAXREC_DATA=... python -m eval.prefer configs/language/prefer_smollm2_hh.py

The small sibling, for two cores: the state below the changed layers is computed once and kept on disk; a conversation
keeps its last 96 tokens; 200 of 458 held-out pairs are tested. The rate is the toy's and was not searched for. With
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
    train_pairs=200,
    test_pairs=200,
    system="Answer well.",
    top=10,
    features=FeatureConfig("runs/smollm2/features"),
    length=96,
    rows=4,
    steps=50,
    work="runs/prefer_smollm2",
)

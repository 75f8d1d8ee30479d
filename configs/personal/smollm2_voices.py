"""Unseen businesses answer on SmolLM2: own p against other vectors, a LoRA of their own, a page before the question.

python -m eval.voices configs/personal/smollm2_voices.py --out results/voices

Measured in part, after 14 steps of onboarding: hand-written businesses (16 answers) 3.29 nats a token with own p and
3.78 with the mean p, style .45 and .32; with a LoRA of their own and the right page 2.12 nats, style .50. A row takes
half a minute of a CPU.
"""

from jaxrec.data.feature_store import FeatureConfig
from jaxrec.dialogue.pages import PagesConfig
from jaxrec.eval.voices import VoicesConfig

config = VoicesConfig(
    profile="runs/smollm2/personalize/profile",
    own="runs/smollm2/lora/profile",
    pages=PagesConfig("name", length=180),
    also=("right", "retrieved"),
    untuned=True,
    who=(
        *("own_p_gradient", "own_p_encoder", "mean_p", "shuffled_p", "no_p", "own_lora", "untuned"),
        *("own_p_right_page", "own_p_retrieved_page", "own_lora_right_page", "untuned_right_page"),
    ),
    dialogues=5,
    question=256,
    answer=112,
    rows=25,
    quantise="bf16",
    features=FeatureConfig("runs/smollm2/features"),
    out="runs/smollm2/voices",
)

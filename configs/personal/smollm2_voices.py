"""Unseen businesses answer on SmolLM2: own p against other vectors, a LoRA of their own, a page before the question.

python -m eval.voices configs/personal/smollm2_voices.py --out results/voices

Hand-written businesses, 10 answers: nats a token 3.03 with own p (gradient), 3.32 with the mean p, 2.68 with the right
page and own p, 1.77 with that page and a LoRA of their own that began at zero (begun as A(p): see smollm2_lora); style
.47, .34, .46, .86; facts with the right page .22 (p) and .44 (LoRA). Generated ones, 15 answers, with the right page:
own p .43 nats, style .69, facts .60. Untuned: style .22 - .46, facts at most .20. Some 50 CPU seconds a row; pages are
whole (180 tokens), though 80 were trained with. A repetition penalty of 1.15 cost facts on validation tenants (.83 to
.67) and nothing looped without one.
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

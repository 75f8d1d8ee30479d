"""GenRec's reward by GRPO instead of PPO: 50 rollouts of 8 prompts, 4 texts to each, no value head.

    python -m train.ppo configs/language/ppo_grpo.py

From the adapter of genrec_sft, as genrec_ppo does; beside that run it says what the value head is worth.
Two CPU cores: about as long as genrec_ppo (not measured yet).
"""

from jaxrec.dialogue.prompts import RATED_GENERATION
from jaxrec.train.ppo import PpoConfig
from jaxrec.training.rollout import KlConfig, RolloutConfig

config = PpoConfig(
    base="runs/backbone_shop/model",
    adapter="runs/genrec/sft/adapter",
    prompts="runs/genrec/few/train-00000.jsonl.gz",
    variant="grpo",
    generation=RATED_GENERATION,
    longest=112,
    episodes=50,
    rollout=RolloutConfig(rows=32, group=4, epochs=4, minibatches=2, kl=KlConfig(0.05)),
    out="runs/genrec/grpo",
)

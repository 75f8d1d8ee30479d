"""GenRec's last stage: PPO on its reward, 50 episodes of 32 prompts, from the adapter of genrec_sft.

    python -m train.ppo configs/language/genrec_ppo.py
    python -m train.ppo configs/language/genrec_ppo.py --reward genrec-guarded --out runs/genrec/ppo_guarded

Prompts of up to 112 tokens, which is people who rated: the reward asks for a rating. Texts end at a line break only
(`prompts.RATED_GENERATION` says why). Six minutes on two busy cores: the held-out reward goes from 0.35 to 0.83, by
writing the favourite's answer to every rating, which the reward does not forbid. OUT/reward.png has the reward with
its parts and the KL, OUT/samples.jsonl what was written before and after.
"""

from jaxrec.dialogue.prompts import RATED_GENERATION
from jaxrec.train.ppo import PpoConfig

config = PpoConfig(
    base="runs/backbone_shop/model",
    adapter="runs/genrec/sft/adapter",
    prompts="runs/genrec/few/train-00000.jsonl.gz",
    generation=RATED_GENERATION,
    longest=112,
    episodes=50,
    out="runs/genrec/ppo",
)

"""GenRec end to end on Amazon's gift cards, and its explanations by every stage of tuning.

    JAXREC_DATA=... python -m train.pretrain configs/language/backbone_shop.py
    python -m jaxrec.rewards.instruction_pairs --sets ml-100k amazon18-gift-cards --limit 2000 \\
        --templates rating/2 query/1 --out runs/genrec/few
    python -m train.sft configs/language/genrec_sft.py
    python -m train.sft configs/language/genrec_qlora.py
    python -m train.ppo configs/language/genrec_ppo.py
    python -m eval.explain configs/recommend/genrec.py

Two CPU cores: about four minutes, the flow's models included. The same command explains by a larger model where one
of `models` names it: its folder or hub id, or an adapter's folder (runs/genrec_llama2_7b/adapter).
"""

from jaxrec.configs.recommend.genrec_flow import config as flow
from jaxrec.dialogue.prompts import Generation
from jaxrec.eval.explain import ExplainConfig
from jaxrec.eval.explain_writer import ModelRow
from jaxrec.eval.recommend_flow import Request
from jaxrec.recommenders.flow import FlowSettings, FlowWeights

config = ExplainConfig(
    name="genrec",
    parts=flow.parts,
    # the weights that jaxrec.eval.recommend chose on validation rows for configs/recommend/genrec_flow.py
    flow=FlowSettings(weights=FlowWeights(text=1.0, deepmf=0.25, sequence=1.0)),
    requests=(
        Request("A31UBHTUUIFJUT", "coffee for a friend"),
        Request("A31UBHTUUIFJUT", ""),
        Request("somebody new", "an evening at the cinema"),
        Request("somebody new", ""),
    ),
    models=(
        ModelRow("base", "runs/backbone_shop/model"),
        ModelRow("SFT", "runs/genrec/sft/adapter"),
        # phase 4's stops word for word: the first ".", "!" or line break ends a text
        ModelRow("SFT, specified stops", "runs/genrec/sft/adapter", generation=Generation()),
        ModelRow("QLoRA", "runs/genrec/qlora/adapter", quantise="nf4", dtype="bfloat16"),
        ModelRow("PPO", "runs/genrec/ppo/adapter"),
    ),
    batch=32,
)

"""Seven PEFT methods on the top third of SmolLM2-135M-Instruct, trained to their ends on Bitext's intents; one seed.

    python -m jaxrec.hub.fetch smollm2
    JAXREC_DATA=... python -m eval.peft configs/language/peft_smollm2.py

The small sibling, for two cores: ten of thirty layers are changed, so that the state below them is computed once and
kept on disk; 1,600 of 5,610 rows are learned from, and two rates a method are tried for 16 steps. Training ends where
the validation curve has been no better for two looks.

NUMBER. Accuracy on 400 test rows: LoRA .988, DoRA .960, adapters .990, a prefix .705, IA3 .975; untuned 0.
COST. 407 CPU seconds for the untuned row, LoRA and all kept states, 240 - 340 for each further method, 1.3 GB beyond
the libraries. `full` and `lora_nf4` have not been run on these weights, their rates are guesses. More hardware: every
layer, row and three seeds: --sizes.top 0 --sizes.train 0 --sizes.trial 0 --sizes.steps 1200 --seeds 3.
"""

from jaxrec.data.feature_store import FeatureConfig
from jaxrec.eval.peft import PeftConfig
from jaxrec.eval.peft_training import Sizes

config = PeftConfig(
    model="smollm2",
    tasks=("bitext",),
    methods=("none", "lora", "dora", "adapter", "prefix", "ia3", "full", "lora_nf4"),
    rates={
        "lora": (2e-3, 5e-3),
        "dora": (2e-3, 5e-3),
        "adapter": (2e-3, 6e-3),
        "prefix": (1e-2, 5e-2),
        "ia3": (1e-2, 5e-2),
        "full": (1e-4, 4e-4),
        "lora_nf4": (2e-3, 5e-3),
    },
    seeds=1,
    sizes=Sizes(
        steps=200, warmup=10, tokens=256, train=1600, valid=120, test=400,
        every=40, patience=2, trial=16, rounds=0, top=10, system="Name the intent.",
        features=FeatureConfig("runs/smollm2/features", dtype="float32"),
    ),
    name="smollm2",
    file="configs/language/peft_smollm2.py",
    out="runs/peft_smollm2",
)  # fmt: skip

"""The next action that ABCD's guidelines allow, in flows whose guidelines were never read in training (Chen 2021).

JAXREC_DATA=... python -m train.policy configs/personal/policy_abcd.py
JAXREC_DATA=... python -m eval.policy --model runs/policy_abcd

Two minutes on two cores for five folds. AUPRC of what is not allowed .949 (base rate .886), .938 without guidelines;
the one allowed action is the least suspicious of its step in .31 of the steps: a weak reader of procedures.
"""

from jaxrec.data.policy_sets import PolicySetConfig
from jaxrec.models.personal.policy import PolicyHeadConfig
from jaxrec.train.policy import PolicyConfig, ReadingConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

config = PolicyConfig(
    data=PolicySetConfig(
        kind="abcd",
        files=tuple(f"abcd/{part}.json" for part in ("guidelines", "kb", "ontology")),
        folds=5,
    ),
    reading=ReadingConfig(layers=(-1,), limit=96, tokens=True),
    head=PolicyHeadConfig(reads=("question", "answer", "grounds"), align=32, p_enters=()),
    profile="table",
    variants=("no_p", "no_grounds"),
    fewest=1000,
    opt=OptConfig(lr=1e-3, weight_decay=0.3, warmup=20),
    loop=LoopConfig(steps=300, eval_every=50, monitor="valid_nll", patience=3),
    out="runs/policy_abcd",
)

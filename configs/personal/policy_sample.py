"""The sample world's policies (facts, voice, prescribed lines) of tenants who are in no training.

python -m train.policy configs/personal/policy_sample.py
python -m eval.policy --model runs/policy_sample

About four minutes on two cores. Unseen tenants, AUPRC: grounding .83 (.30 without the retrieved text), compliance .78
(.40 with the mean p, .37 without p), style .33 (.28 without p; base rate .275): pooled vectors hardly see a voice.
"""

from jaxrec.data.policy_sets import PolicySetConfig
from jaxrec.models.personal.policy import PolicyHeadConfig
from jaxrec.train.policy import PolicyConfig, ReadingConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

config = PolicyConfig(
    data=PolicySetConfig(kind="world", tenants=150, questions=6),
    reading=ReadingConfig(layers=(-1,), limit=48, tokens=True),
    head=PolicyHeadConfig(
        reads=("question", "answer", "grounds"), tokens=True, align=48, d_p=32, width=64,
        p_enters=("add", "film", "bilinear"),
    ),
    profile="encoder",
    variants=("own_p", "no_p", "no_grounds"),
    opt=OptConfig(lr=1e-3, weight_decay=0.1, warmup=20),
    loop=LoopConfig(steps=800, eval_every=100, monitor="valid_nll", patience=3),
    out="runs/policy_sample",
)  # fmt: skip

"""Abuse in chats with bots, as each of ConvAbuse's eight judges sees it (Cercas Curry 2021; LeWiDi's published split).

JAXREC_DATA=... python -m train.policy configs/personal/policy_convabuse.py
JAXREC_DATA=... python -m eval.policy --model runs/policy_convabuse

One minute on two cores, one more to read the texts the first time. Test split, eight judges: AUPRC of abuse .845 with
the judge's own p, .813 with the mean p, .739 with another judge's, .806 without p; false positives .056 (.05 wanted).
"""

from jaxrec.data.policy_sets import PolicySetConfig
from jaxrec.models.personal.policy import PolicyHeadConfig
from jaxrec.train.policy import PolicyConfig, ReadingConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

config = PolicyConfig(
    data=PolicySetConfig(
        kind="convabuse",
        files=tuple(
            f"lewidi/LeWiDi_2-2023__ConvAbuse_{part}.json.gz" for part in ("train", "dev", "test")
        ),
    ),
    reading=ReadingConfig(layers=(-2, -1), limit=64),
    head=PolicyHeadConfig(d_p=16, width=64),
    profile="table",
    opt=OptConfig(lr=1e-3, weight_decay=0.3, warmup=20),
    loop=LoopConfig(steps=800, eval_every=50, monitor="valid_nll", patience=4),
    out="runs/policy_convabuse",
)

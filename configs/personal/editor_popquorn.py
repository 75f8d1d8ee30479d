"""POPQUORN's e-mails: which rewrite is this person's, after k others of theirs (Pei and Jurgens 2023)?

JAXREC_DATA=... python -m train.editor configs/personal/editor_popquorn.py
JAXREC_DATA=... python -m eval.editor --model runs/editor_popquorn

Three minutes on two cores for five folds. 227 unseen people, nine rewrites known of each: the own one comes first in
.648 of the e-mails (.609 with the mean p, .602 with another's, .610 without p); against another person's rewrite .554
(.501 with the mean p). Keep or rewrite is decided better without p: .935 against .917.
"""

from jaxrec.data.candidate_sets import CandidateSetConfig
from jaxrec.train.editor import EditorTrainConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

config = EditorTrainConfig(
    data=CandidateSetConfig(kind="popquorn", file="popquorn/email_rewriting.csv.gz", folds=5),
    opt=OptConfig(lr=1e-3, weight_decay=0.3, warmup=20),
    loop=LoopConfig(steps=600, eval_every=50, monitor="valid_loss", patience=4),
    out="runs/editor_popquorn",
)

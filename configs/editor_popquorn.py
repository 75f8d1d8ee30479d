"""POPQUORN's e-mails: which rewrite is this person's, after k others of theirs (Pei and Jurgens 2023)?

JAXREC_DATA=... python -m train.editor configs/editor_popquorn.py
JAXREC_DATA=... python -m eval.editor --model runs/editor_popquorn
"""

from jaxrec.data.candidate_sets import CandidateSetConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig
from train.editor import EditorTrainConfig

config = EditorTrainConfig(
    data=CandidateSetConfig(kind="popquorn", file="popquorn/email_rewriting.csv.gz", folds=5),
    opt=OptConfig(lr=1e-3, weight_decay=0.3, warmup=20),
    loop=LoopConfig(steps=600, eval_every=50, monitor="valid_loss", patience=4),
    out="runs/editor_popquorn",
)

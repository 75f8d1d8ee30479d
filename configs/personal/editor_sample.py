"""The sample world: which of four answers with the same facts is in an unseen tenant's own voice?

python -m train.editor configs/personal/editor_sample.py
python -m eval.editor --model runs/editor_sample

Two minutes on two cores, and two more to read the texts. At chance: the own answer comes first in .20 (a quarter by
guessing) after 16 pieces; 767 choices and pooled vectors are too little to learn what a voice is.
"""

from jaxrec.data.candidate_sets import CandidateSetConfig
from jaxrec.models.personal.draft_vectors import DraftReading
from jaxrec.train.editor import EditorTrainConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

config = EditorTrainConfig(
    data=CandidateSetConfig(kind="world", tenants=150, questions=8),
    reading=DraftReading(components=96, limit=64),
    pieces=16,
    opt=OptConfig(lr=1e-3, weight_decay=0.1, warmup=20),
    loop=LoopConfig(steps=1500, eval_every=100, monitor="valid_loss", patience=4),
    out="runs/editor_sample",
)

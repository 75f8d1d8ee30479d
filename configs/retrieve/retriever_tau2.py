"""The retriever over the set tau2-passages, five folds over its texts.

JAXREC_DATA=... python -m train.retriever configs/retrieve/retriever_tau2.py
JAXREC_DATA=... python -m eval.retrieve configs/retrieve/retrieve_tau2.py

COST. Twenty seconds of CPU to train five folds, one to three minutes to read the texts the first time.
NUMBER. See retrieve_tau2.
"""

from jaxrec.data.question_sets import QuestionSetConfig
from jaxrec.train.retriever import RetrieverStageConfig

config = RetrieverStageConfig(
    data=QuestionSetConfig(kind="set", name="tau2-passages"), whole=False, out="runs/retriever_tau2"
)

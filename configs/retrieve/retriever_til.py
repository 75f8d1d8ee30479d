"""The retriever over the set twin_til, five folds over its texts.

JAXREC_DATA=... python -m train.retriever configs/retrieve/retriever_til.py
JAXREC_DATA=... python -m eval.retrieve configs/retrieve/retrieve_til.py

COST. Twenty seconds of CPU to train five folds, one to three minutes to read the texts the first time.
NUMBER. See retrieve_til.
"""

from jaxrec.data.question_sets import QuestionSetConfig
from jaxrec.train.retriever import RetrieverStageConfig

config = RetrieverStageConfig(
    data=QuestionSetConfig(kind="set", name="twin_til"), whole=False, out="runs/retriever_til"
)

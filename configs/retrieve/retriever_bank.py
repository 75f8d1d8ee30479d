"""The retriever over the set bank-faqs, five folds over its texts.

JAXREC_DATA=... python -m train.retriever configs/retrieve/retriever_bank.py
JAXREC_DATA=... python -m eval.retrieve configs/retrieve/retrieve_bank.py

COST. Twenty seconds of CPU to train five folds, one to three minutes to read the texts the first time.
NUMBER. See retrieve_bank.
"""

from jaxrec.data.question_sets import QuestionSetConfig
from jaxrec.train.retriever import RetrieverStageConfig

config = RetrieverStageConfig(
    data=QuestionSetConfig(kind="set", name="bank-faqs"), whole=False, out="runs/retriever_bank"
)

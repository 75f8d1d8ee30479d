"""Retrieval over the set bank-faqs, and when to abstain.

JAXREC_DATA=... python -m train.retriever configs/retrieve/retriever_bank.py
JAXREC_DATA=... python -m eval.retrieve configs/retrieve/retrieve_bank.py
"""

from jaxrec.data.question_sets import QuestionSetConfig
from jaxrec.eval.retrieve import RetrieveConfig

config = RetrieveConfig(
    data=QuestionSetConfig(kind="set", name="bank-faqs"),
    retriever="runs/retriever_bank",
    strangers=("twin_til", "tau2-passages"),
    speed=10000,
    filename="bank.json",
)

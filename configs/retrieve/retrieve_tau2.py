"""Retrieval over the set tau2-passages, and when to abstain.

JAXREC_DATA=... python -m train.retriever configs/retrieve/retriever_tau2.py
JAXREC_DATA=... python -m eval.retrieve configs/retrieve/retrieve_tau2.py
"""

from jaxrec.data.question_sets import QuestionSetConfig
from jaxrec.eval.retrieve import RetrieveConfig

config = RetrieveConfig(
    data=QuestionSetConfig(kind="set", name="tau2-passages"),
    retriever="runs/retriever_tau2",
    strangers=("bank-faqs", "twin_til"),
    speed=0,
    filename="tau2.json",
)

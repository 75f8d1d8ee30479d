"""Retrieval over the set twin_til, and when to abstain.

JAXREC_DATA=... python -m train.retriever configs/retrieve/retriever_til.py
JAXREC_DATA=... python -m eval.retrieve configs/retrieve/retrieve_til.py
"""

from jaxrec.data.question_sets import QuestionSetConfig
from jaxrec.eval.retrieve import RetrieveConfig

config = RetrieveConfig(
    data=QuestionSetConfig(kind="set", name="twin_til"),
    retriever="runs/retriever_til",
    strangers=("bank-faqs", "tau2-passages"),
    speed=0,
    filename="til.json",
)

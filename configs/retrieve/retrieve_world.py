"""Whose question it is: own p against the mean one, another tenant's and none, in one pool of all tenants' pages.

python -m train.retriever configs/retrieve/retriever_world.py
python -m eval.retrieve configs/retrieve/retrieve_world.py

COST. Ten seconds of CPU. NUMBER. 12 tenants that nothing learned from, 288 questions, one pool of 960 pages of 60
tenants: R@1 .740 with the own p, .090 with the mean one, .045 with another tenant's.
"""

from jaxrec.data.question_sets import QuestionSetConfig
from jaxrec.eval.retrieve import RetrieveConfig

config = RetrieveConfig(
    data=QuestionSetConfig(kind="tenants", sources=("world:train:60",), held=("world:held:60",)),
    retriever="runs/retriever_world",
    filename="world.json",
)

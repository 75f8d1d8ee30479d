"""Whose question it is: own p against the mean one, another tenant's and none, in one pool of all tenants' pages.

python -m train.retriever configs/retrieve/retriever_world.py
python -m eval.retrieve configs/retrieve/retrieve_world.py
"""

from jaxrec.data.question_sets import QuestionSetConfig
from jaxrec.eval.retrieve import RetrieveConfig

config = RetrieveConfig(
    data=QuestionSetConfig(kind="tenants", sources=("world:train:60",), held=("world:held:60",)),
    retriever="runs/retriever_world",
    filename="world.json",
)

"""The retriever with p, over the sample world: one pool of all tenants' pages, tested on tenants it never saw.

python -m train.retriever configs/retrieve/retriever_world.py
python -m eval.retrieve configs/retrieve/retrieve_world.py

COST. One minute of CPU to read 3,300 texts the first time, ten seconds to train. NUMBER: see retrieve_world.
"""

from jaxrec.data.question_sets import QuestionSetConfig
from jaxrec.models.text.retriever import RetrieverConfig
from jaxrec.train.retriever import RetrieverStageConfig

config = RetrieverStageConfig(
    data=QuestionSetConfig(kind="tenants", sources=("world:train:60",), held=("world:held:60",)),
    model=RetrieverConfig(d_p=384),
    whole=False,
    out="runs/retriever_world",
)

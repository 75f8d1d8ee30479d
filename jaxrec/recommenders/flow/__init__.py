"""Floor 4: a shop's recommendations, from its events and titles to ten items with reasons.

    flow = Flow.fit(read(DataConfig(path="my.csv", items="titles.csv")))
    for one in flow.recommend("U1", query="coffee for a friend"):
        print(one.title, one.why)

`flow.Flow` is what is fitted, saved, loaded and asked; `open_shop` fits it from files, or takes it from where it was
kept. `pipeline.Pipeline` is the way of one request, `fitting` makes its parts. Asking needs no jax, but for a query
that a sentence encoder reads.
"""

from jaxrec.recommenders.flow.fitting import FlowConfig
from jaxrec.recommenders.flow.flow import Flow
from jaxrec.recommenders.flow.keep import open_shop
from jaxrec.recommenders.flow.pipeline import (
    STAGES,
    Answer,
    Candidates,
    FlowError,
    FlowParts,
    FlowSettings,
    FlowWeights,
    Pipeline,
    weigh,
)
from jaxrec.recommenders.flow.reasons import Recommendation, Recommendations, SupportingEvent

__all__ = [
    "STAGES",
    "Answer",
    "Candidates",
    "Flow",
    "FlowConfig",
    "FlowError",
    "FlowParts",
    "FlowSettings",
    "FlowWeights",
    "Pipeline",
    "Recommendation",
    "Recommendations",
    "SupportingEvent",
    "open_shop",
    "weigh",
]

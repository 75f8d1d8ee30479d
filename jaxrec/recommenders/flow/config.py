"""Floor 4: how a shop's flow is fitted: which models, from how many people on, and how long."""

import dataclasses
from typing import Any, Literal

from jaxrec.people.personas import PersonasConfig
from jaxrec.recommenders.flow.pipeline import FlowSettings
from jaxrec.recommenders.item_knn import ItemKNNConfig

# All candidates but near doubles are weighed. Where half of them went by diversity of texts, before any ranker was
# heard, the held-out item was among the ten in 12 % of cases on MovieLens-100K, and in 17 % where all stayed.
KEEPING_ALL = FlowSettings(candidates=200, diverse=200, duplicate=0.97, near=0.75)


@dataclasses.dataclass(frozen=True)
class FlowConfig:
    """What a flow is fitted with.

    encoder: "" for MiniLM of its package where it is installed, a folder or hub id, or "none": titles are sought by
      their words alone. Titles mostly in scripts other than Latin are sought by their words too, unless one is named.
    sequence: a sequence model is fitted ("auto": to `sequence_people` people or more with three events; "never").
    sequential: its SequentialConfig; None: SASRec, narrower and stopped sooner than for a table of results.
    personas: their number is at most one for `persona_people` people, whatever `personas.k`.
    settings: of the pipeline; the weights are chosen on what people took last, where at least `tuned_people` can be
      asked (at most `tuned_rows` are), else they stand.
    """

    encoder: str = ""
    sequence: Literal["auto", "never"] = "auto"
    sequential: Any = None
    sequence_people: int = 200
    neighbours: ItemKNNConfig = ItemKNNConfig()
    personas: PersonasConfig = PersonasConfig(restarts=3)
    persona_people: int = 20
    settings: FlowSettings = dataclasses.field(default_factory=lambda: KEEPING_ALL)
    tuned_people: int = 50
    tuned_rows: int = 400
    seed: int = 0

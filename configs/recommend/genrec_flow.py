"""GenRec's flow on Amazon's gift cards (real titles, ratings, reviews).

    JAXREC_DATA=... python -m eval.recommend configs/recommend/genrec_flow.py

The specification's DeepMF (batches of 1,024, 5 epochs) would make ten updates on these 2,049 ratings: it learns in
batches of 64 here, and stops by the ratings held back. Two CPU cores: about a minute the first time, seconds
afterwards (models are kept in runs/genrec_flow).

Held-out items, R@10: asked for by their own brand and category, search alone .624, re-ranked by all .714, the flow
.672; by what another person wrote of the item .249, .432, .338. Without a query the sequence model alone reaches
.415: words that were not the item's own are worth little beside the history.
"""

from jaxrec.data.interaction_sets import DataConfig
from jaxrec.eval.flow_parts import PartsConfig
from jaxrec.eval.recommend_flow import FlowConfig, Request
from jaxrec.recommenders.deepmf import DeepMFConfig
from jaxrec.recommenders.deepmf_fit import FitConfig

config = FlowConfig(
    name="genrec_flow",
    parts=PartsConfig(
        data=DataConfig(name="amazon18-gift-cards", duplicates="first"),
        deepmf=DeepMFConfig(fit=FitConfig(batch=64, epochs=30, patience=4, updates=1)),
        out="runs/genrec_flow",
    ),
    requests=(
        Request("A31UBHTUUIFJUT", "coffee for a friend"),
        Request("A2MN5JQMIY0FQ2", "coffee for a friend"),
        Request("A31UBHTUUIFJUT", ""),
        Request("A31UBHTUUIFJUT", "подарочная карта"),
        Request("A31UBHTUUIFJUT", "给妈妈的礼物 🎂"),
        Request("A31UBHTUUIFJUT", "a dinner out " * 770),
        Request("somebody new", "an evening at the cinema"),
        Request("somebody new", ""),
        Request("somebody new", "a birthday", given=("B004LLIKVU",)),
    ),
)

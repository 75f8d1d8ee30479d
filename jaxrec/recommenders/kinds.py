"""Floor 4: all recommenders by name: made from their configs, read from their folders.

Nothing is imported before it is asked for: a recommender of kind K is in `jaxrec/recommenders/K.py`.
A `cross_domain` made here takes all items for one shop; `CrossDomain(config, shop_I)` says which item is of which.
"""

import dataclasses
import importlib
from pathlib import Path
from typing import Any, TypeVar

from jaxrec import checkpoint
from jaxrec.recommenders.recommender import Recommender

T = TypeVar("T")

# kind, which is the module's name too -> (its config's class, its own)
KINDS = {
    "popularity": ("PopularityConfig", "Popularity"),
    "item_knn": ("ItemKNNConfig", "ItemKNN"),
    "bpr": ("BPRConfig", "BPR"),
    "sequential": ("SequentialConfig", "Sequential"),
    "deepmf": ("DeepMFConfig", "DeepMF"),
    "generative_rec": ("GenerativeRecConfig", "GenerativeRec"),
    "cross_domain": ("CrossDomainConfig", "CrossDomain"),
}


def config_classes() -> tuple[type, ...]:
    """The config class of every kind."""
    return tuple(getattr(_module(kind), name) for kind, (name, _) in KINDS.items())


def kind_of(config: Any) -> str:
    """The kind that a config is of. Raises TypeError for anything else."""
    known = {name: kind for kind, (name, _) in KINDS.items()}
    if type(config).__name__ not in known:
        raise TypeError(f"a {type(config).__name__} configures no recommender: {sorted(known)} do")
    return known[type(config).__name__]


def make(config: Any) -> Recommender:
    """The recommender, not fitted yet, that `config` describes."""
    kind = kind_of(config)
    return getattr(_module(kind), KINDS[kind][1])(config)


def load(folder: str | Path) -> Recommender:
    """What a recommender's `save` wrote. Raises CheckpointError where that is not whole, or of no known kind."""
    kind = checkpoint.load_facts(folder).get("kind")
    if kind not in KINDS:
        raise checkpoint.CheckpointError(
            f"{folder} holds no recommender: its facts.json says kind {kind!r}, known are {sorted(KINDS)}"
        )
    return getattr(_module(kind), KINDS[kind][1]).load(folder)


def with_seed(config: T, seed: int) -> T:
    """The config with every field called `seed`, at any depth, set to `seed`; the same config if it has none."""
    changed = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "seed":
            changed["seed"] = seed
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            changed[field.name] = with_seed(value, seed)
    return dataclasses.replace(config, **changed)


def _module(kind: str) -> Any:
    return importlib.import_module(f"jaxrec.recommenders.{kind}")

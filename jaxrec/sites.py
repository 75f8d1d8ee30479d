"""Floor 1: where a model can be changed. `Decoder.sites(cfg)` says it; deltas and hypernetworks are sized by it."""

import dataclasses
from collections.abc import Mapping

from flax.core import FrozenDict


class _Hashable:
    """Mappings become FrozenDicts, so that sites can be a static argument of jit and a field of a flax module."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Mapping):
                object.__setattr__(self, field.name, FrozenDict(value))


@dataclasses.dataclass(frozen=True)
class StackSites(_Hashable):
    """Where one stack of layers can be changed, each kind by site, with the sizes a change there needs."""

    n_layers: int
    lora: Mapping[str, tuple[int, int]]  # site -> (in, out) of its matrix
    adapter: Mapping[str, int]  # site -> width
    prefix: Mapping[str, tuple[int, int, int]]  # site -> (heads, key heads, head size)
    norm: Mapping[str, int]  # site -> width
    scale: Mapping[str, int]  # site -> width of the output that is scaled
    attn_bias: Mapping[str, int]  # site -> heads


@dataclasses.dataclass(frozen=True)
class Sites(_Hashable):
    """All places where a model can be changed."""

    stacks: Mapping[str, StackSites]
    d_model: int
    vocab: int

"""Tenants through the backbone: each row's LoRA made by A(p) from that row's p, then 64 tokens decoded.

A(p) is inside what is timed: what a batch of people costs who were not there a moment ago.
"""

import dataclasses
from typing import Any

from bench.race.jax_decode import backbone, serving_model
from bench.race.tenants import WIDTH_P, drawn, stirred, table
from bench.race.worker import Work


def prepare(
    size: str = "30m", batch: int = 16, sites: str = "q|v", rank: int = 8
) -> dict[str, Work]:
    """Works: `merged` (tenant 0 folded into the weights), and those of `tenants.drawn`."""
    import jax
    import jax.numpy as jnp

    from jaxrec.delta import DeltaConfig, materialise, merge_params, restack
    from jaxrec.models.personal.hypernet import Hypernet
    from jaxrec.nn.decoder import Decoder

    cfg, params = serving_model(size)
    spec = DeltaConfig(lora_rank=rank, lora_sites=sites)
    hypernet = Hypernet(Decoder.sites(dataclasses.replace(cfg, cuts=())), spec)
    weights = stirred(hypernet.init(jax.random.key(0), jnp.zeros((1, WIDTH_P)))["params"])
    people = table()

    @jax.jit
    def make(weights: Any, people: Any, tenants: Any) -> Any:
        delta = materialise(hypernet.apply({"params": weights}, people[tenants]))
        return restack(delta, [cfg.layers], [1] * cfg.layers)

    merged = merge_params(params, make(weights, people, jnp.arange(1)), Decoder.path_of)
    generate = backbone(cfg, batch)
    work = lambda tenants: generate(lambda: (params, make(weights, people, tenants())), size, 0)
    return {"merged": generate(lambda: (merged, None), size, 0)} | drawn(work, batch)

"""Tenants through the backbone: each row's LoRA made by A(p) from that row's p, then 64 tokens decoded.

A(p) is inside what is timed: what a batch of people costs who were not there a moment ago.
"""

from collections.abc import Callable
from typing import Any

from eval.race import shape
from eval.race.jax_decode import greedy, serving_model, versions
from eval.race.worker import Work

POPULATIONS = (1, 256, 1_000, 10_000)
WIDTH_P = 128


def prepare(
    size: str = "30m", batch: int = 16, sites: str = "q|v", rank: int = 8
) -> dict[str, Work]:
    """Works: `shared` (tenant 0 for all rows, its leaves not repeated), `merged` (folded into the weights),
    `distinct` (tenants 0 to 15), `stream_N` (rows drawn anew at each call from N tenants)."""
    import dataclasses

    import jax
    import jax.numpy as jnp

    from jaxrec.delta import DeltaConfig, materialise, merge_params, restack
    from jaxrec.models.hypernet import Hypernet
    from jaxrec.nn.decoder import Decoder

    cfg, params = serving_model(size)
    ids = jnp.array(shape.prompts(size, batch), jnp.int32)
    spec = DeltaConfig(lora_rank=rank, lora_sites=sites)
    hypernet = Hypernet(Decoder.sites(dataclasses.replace(cfg, cuts=())), spec)
    weights = stirred(hypernet.init(jax.random.key(0), jnp.zeros((1, WIDTH_P)))["params"])

    def delta_of(weights: Any, p_BE: Any) -> Any:
        made = materialise(hypernet.apply({"params": weights}, p_BE))
        return restack(made, [cfg.layers], [1] * cfg.layers)

    @jax.jit
    def decode(params: Any, weights: Any, table: Any, tenants: Any, ids: Any) -> tuple[Any, Any]:
        return greedy(cfg, params, ids, delta_of(weights, table[tenants]))

    path_of = lambda site: ("attn", site) if site in "qkvo" else ("mlp", site)
    table = tenant_table(POPULATIONS[-1])
    merged = merge_params(params, delta_of(weights, table[:1]), path_of)
    plain = jax.jit(lambda params, ids: greedy(cfg, params, ids, None))
    works = {"merged": waiting(lambda: plain(merged, ids))}
    served = lambda tenants: decode(params, weights, table, jnp.asarray(tenants), ids)
    return works | streams(served, batch)


def tenant_table(count: int) -> Any:
    """[count, E] vectors p."""
    import jax

    return jax.random.normal(jax.random.key(1), (count, WIDTH_P))


def stirred(tree: Any, scale: float = 0.02) -> Any:
    """Weights with noise on them: a new A(p) makes the same Delta of every p, a trained one doesn't."""
    import jax

    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    noisy = [x + scale * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, noisy)


def streams(served: Callable[[Any], tuple[Any, Any]], batch: int) -> dict[str, Work]:
    """`shared`, `distinct` and `stream_N` of a function from tenant numbers to (first logits, tokens)."""
    import numpy as np

    rng = np.random.default_rng(0)
    works = {
        "shared": waiting(lambda: served(np.zeros(1, np.int32))),
        "distinct": waiting(lambda: served(np.arange(batch, dtype=np.int32))),
    }
    for count in POPULATIONS:
        draw = lambda count=count: rng.integers(0, count, batch, dtype=np.int32)
        work = waiting(lambda draw=draw: served(draw()))
        # compared with tenant 0's answer, like all others, so its answer is not that of a draw
        works[f"stream_{count}"] = Work(work.run, works["distinct"].answer, work.versions)
    return works


def waiting(call: Callable[[], tuple[Any, Any]]) -> Work:
    """Work that ends when the devices have; its answer is the first row's logits, tenant 0's in every variant."""
    import jax

    run = lambda: jax.block_until_ready(call())
    return Work(run, lambda: run()[0][0], versions())

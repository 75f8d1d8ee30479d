"""What a decoded token costs through the head, and through the backbone: operations and milliseconds.

The head reads keys and values of Z that were made once a turn; the backbone runs once a turn and never again.
"""

import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxrec.models.personal.personal_lm import PersonalLM
from jaxrec.nn.decoder import Decoder, decoder_cache
from jaxrec.nn.stack import every_layer, recut
from jaxrec.structs import Tokens


def turn_cost(lm: PersonalLM, params: PyTree, context: int = 64, rounds: int = 50) -> list[dict]:
    """Rows {"decoder", "mflop_token", "ms_token"} of one row decoding after a context of `context` tokens."""
    ids, mask = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)
    question = Tokens(jnp.zeros((1, context), jnp.int32), jnp.ones((1, context), bool))
    begin = jax.jit(lambda params: lm.turn(params, lm.encode(params, question), _p(lm)))
    turn = begin(params)
    through_head = lambda params, cache: lm.step(params, turn)(ids, mask, cache)
    rows = [_row("head", through_head, params, lm.new_cache(1, context), rounds)]
    if isinstance(lm.backbone, Decoder):
        # every layer a stack of its own: faster in decoding, and a scan's operations are counted only once
        cfg = dataclasses.replace(lm.backbone.cfg, cuts=every_layer(lm.backbone.cfg))
        weights = recut(params["backbone"], lm.backbone.cfg, cfg)
        cache = decoder_cache(cfg, 1, 2 * context)
        cache = cache.replace(filled_B=jnp.full((1,), context, jnp.int32))

        def through_backbone(weights, cache):
            out = Decoder(cfg).apply({"params": weights}, ids, mask, cache=cache, logits="last")
            return out.logits, out.cache

        rows.append(_row("backbone", through_backbone, weights, cache, rounds))
    return rows


def _p(lm: PersonalLM) -> jax.Array:
    return jnp.ones((1, lm.cfg.d_p))


def _row(name: str, step: Callable, params: PyTree, cache: PyTree, rounds: int) -> dict:
    program = jax.jit(step).lower(params, cache).compile()
    jax.block_until_ready(program(params, cache))
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        jax.block_until_ready(program(params, cache))
        times.append(time.perf_counter() - began)
    return {
        "decoder": name,
        "mflop_token": round(program.cost_analysis()["flops"] / 1e6, 3),
        "ms_token": round(1e3 * sorted(times)[rounds // 2], 3),
    }

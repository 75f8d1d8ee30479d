"""Tenants through the preference head: the backbone reads once, the head decodes 64 tokens, p in it row by row."""

from typing import Any

from eval.race import shape
from eval.race.jax_decode import greedy, loop, serving_model, versions
from eval.race.jax_tenants_lora import POPULATIONS, WIDTH_P, stirred, streams, tenant_table
from eval.race.worker import Work


def prepare(size: str = "30m", batch: int = 16, lora_rank: int = 0) -> dict[str, Work]:
    """Works: those of `streams`, and `backbone`: the same tokens decoded by the backbone, without a tenant.

    p enters the head by conditional norms and an offset to its first token; with `lora_rank` by a LoRA too.
    """
    import jax
    import jax.numpy as jnp

    from jaxrec.delta import DeltaConfig
    from jaxrec.models.heads import HeadConfig
    from jaxrec.models.lfe import LFEConfig
    from jaxrec.models.personal_lm import PersonalConfig, PersonalLM
    from jaxrec.nn.decoder import Decoder
    from jaxrec.structs import Tokens

    cfg, backbone = serving_model(size)
    ids = jnp.array(shape.prompts(size, batch), jnp.int32)
    question = Tokens(ids, jnp.ones(ids.shape, bool))
    first = jnp.ones((batch, 1), jnp.int32)  # the answer's <bos>
    width = cfg.d_model
    lm = PersonalLM(
        Decoder(cfg),
        PersonalConfig(
            lfe=LFEConfig(d_z=width, top_k=min(3, cfg.layers)),
            head=HeadConfig(cfg.vocab, width, 2, cfg.heads, cfg.d_ff, width),
            p_enters=DeltaConfig(embed=True, norm=True, lora_rank=lora_rank),
            d_p=WIDTH_P,
        ),
    )
    params = stirred(lm.init(jax.random.key(0))) | {"backbone": backbone}

    @jax.jit
    def decode(params: Any, table: Any, tenants: Any, question: Tokens) -> tuple[Any, Any]:
        z = lm.encode(params, question)
        step = lm.step(params, lm.turn(params, z, table[tenants]))
        cache = lm.new_cache(batch, 1 + shape.NEW)
        return loop(step, cache, first, jnp.ones(first.shape, bool))

    table = tenant_table(POPULATIONS[-1])
    through = jax.jit(lambda params, ids: greedy(cfg, params, ids, None))
    plain = lambda: jax.block_until_ready(through(backbone, ids))
    served = lambda tenants: decode(params, table, jnp.asarray(tenants), question)
    return streams(served, batch) | {"backbone": Work(plain, None, versions())}

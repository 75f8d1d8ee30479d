"""Tenants through the preference head: the backbone reads once, the head decodes 64 tokens, p in it row by row."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.race import shape
from bench.race.jax_decode import backbone, serving_model, versions
from bench.race.tenants import WIDTH_P, drawn, stirred, table
from bench.race.worker import Work


def prepare(size: str = "30m", batch: int = 16, lora_rank: int = 0) -> dict[str, Work]:
    """Works: those of `tenants.drawn`, and `backbone`: as many tokens by the backbone, without a tenant.

    p enters the head by conditional norms and an offset to its first token; with `lora_rank` by a LoRA too.
    """
    import jax
    import jax.numpy as jnp

    from jaxrec.delta import DeltaConfig
    from jaxrec.models.personal.heads import HeadConfig
    from jaxrec.models.personal.lfe import LFEConfig
    from jaxrec.models.personal.personal_lm import PersonalConfig, PersonalLM
    from jaxrec.nn.decoder import Decoder
    from jaxrec.nn.generate import Generator
    from jaxrec.nn.sampling import sampling
    from jaxrec.structs import Tokens

    cfg, frozen = serving_model(size)
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
    params = stirred(lm.init(jax.random.key(0))) | {"backbone": frozen}
    people, ids = table(), jnp.array(shape.prompts(size, batch), jnp.int32)
    question = Tokens(ids, jnp.ones(ids.shape, bool))

    @jax.jit
    def begin(params: Any, people: Any, tenants: Any, question: Tokens) -> Any:
        return lm.turn(params, lm.encode(params, question), people[tenants])

    generator = Generator(
        lambda weights, reading: lm.step(*weights),
        lambda weights, rows, slots: lm.new_cache(rows, slots),
        limit=1 + shape.NEW,
    )
    how, start = sampling(batch, max_new=shape.NEW), [[1]] * batch  # the answer's <bos>

    @jax.jit
    def first_logits(params: Any, turn: Any) -> Any:
        bos = jnp.ones((batch, 1), jnp.int32)
        return lm.step(params, turn)(bos, bos == 1, lm.new_cache(batch, 2))[0]

    def work(tenants: Callable[[], np.ndarray]) -> Work:
        turn = lambda: begin(params, people, tenants(), question)
        run = lambda: generator((params, turn()), start, how)
        return Work(run, lambda: first_logits(params, turn())[0], versions())

    through = backbone(cfg, batch)(lambda: (frozen, None), size, 0)
    # other tokens than the head's: nothing to compare
    return drawn(work, batch) | {"backbone": Work(through.run, None, through.versions)}

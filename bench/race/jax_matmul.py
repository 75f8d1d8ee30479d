"""One matrix product of a 7B model, x [T, 4096] @ W [4096, 11008]: W as NF4 codes, or in bfloat16."""

from typing import Any

from bench.race import chip
from bench.race.jax_decode import versions
from bench.race.worker import Work

INTO, OUT = 4096, 11_008
TOKENS = (1, 16, 256, 4096)
REPEATED = 20  # products a call, each on what the one before gave, so that a call is more than its dispatch


def prepare(
    stored: str = "nf4", into: int = INTO, out: int = OUT, repeated: int = REPEATED
) -> dict[str, Work]:
    """`tokens_T` for each T of `TOKENS`; the answer: the first product, of the weights that the codes stand for."""
    import jax
    import jax.numpy as jnp

    from jaxrec import quant
    from jaxrec.nn.layers import dense

    w: Any = quant.quantise(0.02 * jax.random.normal(jax.random.key(0), (into, out)), "nf4")
    if stored == "bfloat16":
        w = quant.whole({"w": w})["w"].astype(jnp.bfloat16)
    one = jax.jit(dense)

    @jax.jit
    def several(x, w):
        # scaled and cut to the next product's width: one depends on the other, and none can be left out
        again = lambda _, x: dense(x, w)[..., :into] * into**-0.5
        return jax.lax.fori_loop(0, repeated, again, x)

    def work(tokens: int) -> Work:
        x = jax.random.normal(jax.random.key(1), (1, tokens, into), jnp.bfloat16)
        run = lambda: jax.block_until_ready(several(x, w))
        info = {"chip": chip.ours(), "flops": repeated * 2.0 * tokens * into * out}
        answer = lambda: one(x, w).astype(jnp.float32)
        return Work(run, answer, versions(), info, memory=chip.our_memory())

    return {f"tokens_{tokens}": work(tokens) for tokens in TOKENS}

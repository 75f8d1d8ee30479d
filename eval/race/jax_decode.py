"""Our decoding: the plain model, or a LoRA of each row's own. Every layer is a stack of its own, as CPUs want it."""

from typing import Any

from eval.race import shape
from eval.race.worker import Work


def prepare(
    size: str = "30m", batch: int = 16, adapters: int = 0, rank: int = 16
) -> dict[str, Work]:
    """`adapters`: 0 for the plain model, or the number of LoRAs, which the rows take in turn."""
    import jax
    import jax.numpy as jnp

    from jaxrec.delta import take

    cfg, params = serving_model(size)
    ids = jnp.array(shape.prompts(size, batch), jnp.int32)
    bank = lora_delta(size, cfg, adapters, rank) if adapters else None
    turn = jnp.arange(batch) % max(adapters, 1)
    one_for_all = adapters == 1

    @jax.jit
    def decode(params: Any, bank: Any, turn: Any, ids: Any) -> tuple[Any, Any]:
        delta = bank if bank is None or one_for_all else take(bank, turn)
        return greedy(cfg, params, ids, delta)

    run = lambda: jax.block_until_ready(decode(params, bank, turn, ids))
    return {"work": Work(run, lambda: run()[0], versions())}


def serving_model(size: str) -> tuple[Any, Any]:
    """(config, params), cut between all layers."""
    from jaxrec import hub
    from jaxrec.hub.config import read_config
    from jaxrec.nn.stack import every_layer

    folder = shape.model_folder(size)
    return hub.load(folder, cuts=every_layer(read_config(folder)[0]))


def lora_delta(size: str, cfg: Any, rows: int, rank: int) -> Any:
    """`shape.loras` as a Delta of `rows` rows for a model cut as `cfg` says, scaled by alpha / rank = 2."""
    import jax.numpy as jnp

    from jaxrec.delta import restack
    from jaxrec.nn.stack import stack_sizes
    from jaxrec.structs import Delta, LayerDelta, Lora

    scale = jnp.full((cfg.layers, rows), 2.0)
    lora = {
        site: Lora(jnp.array(a), jnp.array(b), scale)
        for site, (a, b) in shape.loras(size, rows, rank).items()
    }
    whole = Delta(stacks={"stack_0": LayerDelta(lora=lora)})
    return restack(whole, [cfg.layers], list(stack_sizes(cfg.layers, cfg.cuts).values()))


def greedy(cfg: Any, params: Any, ids_BL: Any, delta: Any) -> tuple[Any, Any]:
    """(logits after the prompt [B, V], the `shape.NEW` tokens that follow [B, L]) through the backbone."""
    import jax.numpy as jnp

    from jaxrec.nn.decoder import Decoder, decoder_cache

    def step(ids: Any, mask: Any, cache: Any) -> tuple[Any, Any]:
        model, weights = Decoder(cfg), {"params": params}
        out = model.apply(weights, ids, mask, delta=delta, cache=cache, logits="last")
        return out.logits[:, 0], out.cache

    cache = decoder_cache(cfg, ids_BL.shape[0], ids_BL.shape[1] + shape.NEW)
    return loop(step, cache, ids_BL, jnp.ones(ids_BL.shape, bool))


def loop(step: Any, cache: Any, ids_BL: Any, mask_BL: Any) -> tuple[Any, Any]:
    """(first logits [B, V], tokens [B, L]) of greedy decoding by any StepFn; all of it one program."""
    import jax
    import jax.numpy as jnp

    logits_BV, cache = step(ids_BL, mask_BL, cache)
    first_B = logits_BV.argmax(-1).astype(jnp.int32)
    tokens_BL = jnp.zeros((ids_BL.shape[0], shape.NEW), jnp.int32).at[:, 0].set(first_B)

    def body(i: Any, carry: Any) -> Any:
        token_B, cache, tokens_BL = carry
        logits, cache = step(token_B[:, None], jnp.ones((token_B.shape[0], 1), bool), cache)
        token_B = logits.argmax(-1).astype(jnp.int32)
        return token_B, cache, tokens_BL.at[:, i].set(token_B)

    carry = jax.lax.fori_loop(1, shape.NEW, body, (first_B, cache, tokens_BL))
    return logits_BV, carry[2]


def versions() -> dict[str, str]:
    """What ran."""
    import importlib.metadata

    return {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")}

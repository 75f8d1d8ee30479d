"""Our decoding: the plain model, or a LoRA of each row's own. Every layer is a stack of its own, as CPUs want it."""

from typing import Any

from bench.race import chip, shape
from bench.race.worker import Work


def prepare(
    size: str = "30m",
    batch: int = 16,
    adapters: int = 0,
    rank: int = 16,
    dtype: str = "float32",
    weights: str = "",
    prompt: int = 0,
    new: int = 0,
) -> dict[str, Work]:
    """Reads `prompt` tokens and writes `new` ones (0: as `shape` says).

    adapters: 0 for the plain model, or the number of LoRAs, which the rows take in turn. weights: "" for those of
    `dtype`, or kernels of fewer bits.
    """
    import jax
    import jax.numpy as jnp

    from jaxrec.delta import take

    cfg, params = serving_model(size, dtype, weights)
    generate = backbone(cfg, batch, prompt or shape.PROMPT, new or shape.NEW)
    if not adapters:
        work = generate(lambda: (params, None), size, shape.compared(size, batch))
        if size in shape.SHAPES:
            sizes = shape.SHAPES[size], batch, shape.PROMPT, shape.NEW, jnp.dtype(dtype).itemsize
            work.info |= {"moved": chip.decoding_bytes(*sizes)}
        return {"work": work}
    bank = lora_delta(size, cfg, adapters, rank)
    rows = jnp.arange(batch) % adapters
    # what an engine does for a batch of requests: each row's delta out of all that are loaded
    pick = jax.jit(lambda bank, rows: bank if adapters == 1 else take(bank, rows))
    return {"work": generate(lambda: (params, pick(bank, rows)), size, slice(None))}


def serving_model(size: str, dtype: str = "float32", weights: str = "") -> tuple[Any, Any]:
    """(config, params), cut between all layers. weights: "bfloat16" kernels, or "int8" (the table too) or "nf4"."""
    from jaxrec import hub
    from jaxrec.hub import quantised
    from jaxrec.nn.low_precision import for_serving
    from jaxrec.nn.stack import every_layer

    folder = shape.model_folder(size)
    cuts = every_layer(hub.read_config(folder)[0])
    types: dict[str, Any] = {"param_dtype": dtype, "dtype": dtype, "cuts": cuts}
    if weights in ("int8", "nf4"):
        return quantised.load(folder, weights, head=True, table=True, **types)
    cfg, params = hub.load(folder, **types)
    return for_serving(cfg, params, weights) if weights else (cfg, params)


def lora_delta(size: str, cfg: Any, rows: int, rank: int) -> Any:
    """`shape.loras` as a Delta of `rows` rows for a model cut as `cfg` says, scaled by alpha / rank = 2."""
    import jax
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
    cut = list(stack_sizes(cfg.layers, cfg.cuts).values())
    return jax.jit(lambda whole: restack(whole, [cfg.layers], cut))(
        whole
    )  # one program, not a dozen


def backbone(cfg: Any, batch: int, prompt: int = 0, new: int = 0) -> Any:
    """A function (weights, size, rows) -> Work: greedy generation by the decoder `cfg`, its programs shared.

    `weights()` gives (params, delta) and is part of what is timed. The answer: centred logits, of `rows`.
    """
    import jax
    import jax.numpy as jnp

    from jaxrec.nn.decoder import Decoder
    from jaxrec.nn.generate import backbone_generator
    from jaxrec.nn.sampling import sampling

    generator = backbone_generator(cfg)
    how = sampling(batch, max_new=new or shape.NEW)

    @jax.jit
    def read(params: Any, delta: Any, ids: Any) -> Any:
        return Decoder(cfg).apply({"params": params}, ids, delta=delta, logits="last").logits[:, 0]

    def work(weights: Any, size: str, rows: Any) -> Work:
        prompts = shape.prompts(size, batch, prompt or shape.PROMPT)
        ids = jnp.array(prompts, jnp.int32)
        run = lambda: generator(weights(), prompts.tolist(), how)
        answer = lambda: shape.centred(read(*weights(), ids).astype(jnp.float32))[rows]
        info = {"chip": chip.ours()}
        return Work(run, answer, versions(), info, memory=chip.our_memory())

    return work


def versions() -> dict[str, str]:
    """What ran."""
    import importlib.metadata

    return {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")}

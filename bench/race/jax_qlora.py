"""QLoRA: the LoRA step of `jax_sft` on quantised weights, and the same step on what these weights stand for in fp32.

So both compute the same losses, and their ratio is the price of the codes alone.
"""

from typing import Any

from bench.race import shape
from bench.race.jax_sft import lora_step
from bench.race.worker import Work
from jaxrec.files import replace_folder


def prepare(
    size: str = "30m",
    kind: str = "nf4",
    stored: str = "codes",
    batch: int = 8,
    length: int = 256,
    dtype: str = "float32",
    attention: str = "own",
) -> dict[str, Work]:
    """stored: "codes", or "floats" for the fp32 weights that the codes stand for."""
    from bench import quant_load
    from jaxrec import quant
    from jaxrec.hub import quantised

    folder = shape.CACHE / "llama_7b" if size == "7b" else shape.model_folder(size)
    if not folder.exists():  # shard by shard
        with replace_folder(folder) as building:
            quant_load.make(building, size)
    cfg, params = quantised.load(
        folder, kind, head=True, param_dtype=dtype, dtype=dtype, attention=attention
    )
    if stored == "floats":
        params = quant.whole(params)
    work = lora_step(cfg, params, size, batch, length)
    work.info |= resident(params)
    if kind != "nf4":
        work.answer = None  # the race's base has the floats of NF4
    return {"work": work}


def resident(params: Any) -> dict[str, float]:
    """Megabytes of the weights in memory, and their share of fp32: of all, and of the matrices of layers and head."""
    from jaxrec import quant

    kernels = {name: part for name, part in params.items() if name != "embed"}
    share = lambda tree: round(quant.size_bytes(tree) / quant.parameters(tree) / 4, 4)
    return {
        "weights_mb": round(quant.size_bytes(params) / 1e6, 1),
        "of_fp32": share(params),
        "matrices_of_fp32": share(kernels),
    }

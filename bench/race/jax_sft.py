"""Our LoRA training step, as `train.sft` takes it: the `sft` objective, a Delta on a frozen backbone, AdamW, fp32."""

from typing import Any

from bench.race import chip, shape
from bench.race.jax_decode import lora_delta, versions
from bench.race.worker import Work


def prepare(
    size: str = "30m",
    batch: int = 8,
    length: int = 256,
    rank: int = 16,
    dtype: str = "float32",
    attention: str = "own",
) -> dict[str, Work]:
    """One step on `batch` x `length` tokens, all of which count in the loss."""
    from jaxrec.hub import weights

    folder = shape.model_folder(size)
    cfg, params = weights.load(folder, param_dtype=dtype, dtype=dtype, attention=attention)
    return {"work": lora_step(cfg, params, size, batch, length, rank)}


def lora_step(
    cfg: Any, params: Any, size: str, batch: int = 8, length: int = 256, rank: int = 16
) -> Work:
    """The step on these weights, quantised or not; its answer: the losses of the first three."""
    import numpy as np

    step, state, *given = step_of(cfg, params, size, batch, length, rank)
    losses = []

    def one_step() -> None:
        nonlocal state
        state, metrics = step(state, *given)
        losses.append(metrics.fetch()["nll"])

    def first_losses() -> np.ndarray:
        while len(losses) < 3:
            one_step()
        return np.array(losses[:3])

    flops = chip.sft_flops(shape.config(size), batch, length, rank)
    info = {"chip": chip.ours(), "flops": flops}
    return Work(one_step, first_losses, versions(), info, memory=chip.our_memory())


def compiled(size: str = "30m") -> Any:
    """The program of `prepare`'s step, compiled or taken from the cache, and not run."""
    from jaxrec.hub import weights

    cfg, params = weights.load(shape.model_folder(size))
    step, *given = step_of(cfg, params, size)
    return step.lower(*given).compile()


def step_of(
    cfg: Any, params: Any, size: str, batch: int = 8, length: int = 256, rank: int = 16
) -> tuple[Any, ...]:
    """(step, its four arguments: state, frozen, batch, key)."""
    import jax
    import numpy as np

    from jaxrec import mesh as meshes
    from jaxrec import objectives
    from jaxrec.models.language.tuned_lm import TunedLM
    from jaxrec.nn.decoder import Decoder
    from jaxrec.structs import Tokens
    from jaxrec.training import optimizer
    from jaxrec.training.step import init_state, make_step

    ids = shape.prompts(size, batch, length).astype(np.int32)
    rows = Tokens(ids, np.ones(ids.shape, bool), np.ones(ids.shape, np.float32))

    mesh = meshes.make(meshes.MeshConfig(), jax.devices()[:1])
    plain = optimizer.OptConfig(lr=1e-4, schedule="constant", b2=0.999, clip=0.0)
    adam = optimizer.make(plain, steps=1_000_000)
    frozen = meshes.place(mesh, {"backbone": params})
    state = init_state(mesh, {"delta": lora_delta(size, cfg, 1, rank)}, adam)
    step = make_step(*objectives.sft(TunedLM(Decoder(cfg))), adam, state)
    return step, state, frozen, meshes.place_batch(mesh, rows, batch), jax.random.key(0)

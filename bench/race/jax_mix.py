"""Our LoRA fine-tuning on dialogues of all lengths, several to a row."""

from typing import Any

from bench.race import mix, shape
from bench.race.jax_decode import lora_delta, versions
from bench.race.worker import Work


def prepare(size: str = "30m", rank: int = 16) -> dict[str, Work]:
    """An epoch over the dialogues. The answer: nats a learned token over all of them, before any step."""
    import jax
    import numpy as np

    from jaxrec import mesh as meshes
    from jaxrec import objectives
    from jaxrec.data.text import Example, pack, packing_order
    from jaxrec.hub import weights
    from jaxrec.models.language.tuned_lm import TunedLM
    from jaxrec.nn.decoder import Decoder
    from jaxrec.structs import Tokens
    from jaxrec.training import optimizer
    from jaxrec.training.step import init_state, make_step

    cfg, params = weights.load(shape.model_folder(size))
    found = [Example(*one) for one in mix.examples(size)]
    rows, tokens = mix.PACKED_ROWS, Tokens(**pack(packing_order(found), mix.LONGEST))
    if len(tokens.ids_BL) % rows:
        raise ValueError(f"{len(tokens.ids_BL)} rows make no whole batches of {rows}")
    cut = lambda i: jax.tree.map(lambda x: x[i : i + rows], tokens)
    made = [cut(i) for i in range(0, len(tokens.ids_BL), rows)]

    mesh = meshes.make(meshes.MeshConfig(), jax.devices()[:1])
    plain = optimizer.OptConfig(lr=1e-4, schedule="constant", b2=0.999, clip=0.0)
    adam = optimizer.make(plain, steps=1_000_000)
    frozen = meshes.place(mesh, {"backbone": params})
    start = {"delta": lora_delta(size, cfg, 1, rank)}
    state = init_state(mesh, start, adam)
    loss, weigh = objectives.sft(TunedLM(Decoder(cfg)))
    step = make_step(loss, weigh, adam, state)
    placed = [meshes.place_batch(mesh, batch, rows) for batch in made]
    key = jax.random.key(0)

    def epoch() -> None:
        nonlocal state
        for batch in placed:
            state, metrics = step(state, frozen, batch, key)
        metrics.fetch()

    def first_loss() -> Any:
        one = jax.jit(lambda delta, base, b: loss(delta, base, None, b, {"tokens": 1.0}, None)[0])
        learned = sum(float(weigh(batch)["tokens"]) for batch in made)
        return np.array([sum(float(one(start, frozen, batch)) for batch in placed) / learned])

    places = sum(batch.ids_BL.size for batch in made)
    info = {"fill": round(mix.TOKENS / places, 3), "steps": len(made)}
    return {"work": Work(epoch, first_loss, versions(), info)}

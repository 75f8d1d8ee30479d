"""Our DPO step: the preference objective through a Delta, both answers in one forward pass, AdamW, fp32."""

from bench.race import chip, shape
from bench.race.jax_decode import lora_delta, versions
from bench.race.torch_dpo import BETA
from bench.race.worker import Work


def prepare(
    size: str = "30m",
    pairs: int = 8,
    length: int = 256,
    rank: int = 16,
    reference: str = "switched",
    dtype: str = "float32",
    attention: str = "own",
) -> dict[str, Work]:
    """One step on `pairs` pairs of `length` tokens each. reference: "switched" (in the step) or "batch" (given)."""
    import tempfile

    import jax
    import numpy as np

    from jaxrec import mesh as meshes
    from jaxrec.hub import weights
    from jaxrec.losses.preference import PreferenceLoss
    from jaxrec.models.language.tuned_lm import TunedLM
    from jaxrec.nn.decoder import Decoder
    from jaxrec.objectives.prefer import prefer
    from jaxrec.objectives.reference import with_reference
    from jaxrec.structs import Pairs, Tokens
    from jaxrec.training import optimizer
    from jaxrec.training.partition import split
    from jaxrec.training.step import init_state, make_step

    folder = shape.model_folder(size)
    cfg, params = weights.load(folder, param_dtype=dtype, dtype=dtype, attention=attention)
    lm = TunedLM(Decoder(cfg))
    *sides, start = shape.answered(size, pairs, length)
    learned = np.broadcast_to(np.arange(length)[None] >= start, sides[0].shape).astype(np.float32)
    tokens = lambda ids: Tokens(ids.astype(np.int32), np.ones(ids.shape, bool), learned)
    rows = Pairs(*map(tokens, sides))
    mesh = meshes.make(meshes.MeshConfig(), jax.devices()[:1])
    tree = meshes.place(mesh, {"backbone": params, "delta": lora_delta(size, cfg, 1, rank)})
    if reference == "batch":
        with tempfile.TemporaryDirectory() as folder:
            rows = with_reference(lm, lm.reference(tree), rows, folder, mesh, pairs)
    plain = optimizer.OptConfig(lr=1e-4, schedule="constant", b2=0.999, clip=0.0)
    adam = optimizer.make(plain, steps=1_000_000)
    trained, frozen = split(tree, "delta")
    state = init_state(mesh, trained, adam)
    step = make_step(*prefer(lm, PreferenceLoss(beta=BETA), reference), adam, state)
    placed = meshes.place_batch(mesh, rows, pairs)
    key, losses = jax.random.key(0), []

    def one_step() -> None:
        nonlocal state
        state, metrics = step(state, frozen, placed, key)
        losses.append(metrics.fetch()["preference"])

    def first_losses() -> np.ndarray:
        while len(losses) < 3:
            one_step()
        return np.array(losses[:3])

    info = {"chip": chip.ours()}
    return {"work": Work(one_step, first_losses, versions(), info, memory=chip.our_memory())}

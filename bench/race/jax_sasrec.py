"""Our SASRec: histories packed by real length, full cross-entropy in chunks; an epoch over Beauty, or one step."""

from bench.race import beauty
from bench.race.jax_decode import versions
from bench.race.worker import Work


def prepare(what: str = "epoch") -> dict[str, Work]:
    """`what`: "epoch", as `recommenders.sequential` runs it (the same source, the same step, metrics a step late), or
    "step", on the fixed batch of full histories."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxrec import mesh as meshes
    from jaxrec.data.histories import from_lists
    from jaxrec.data.history_rows import pack
    from jaxrec.data.source import ArraySource, Prefetch
    from jaxrec.models.items.sequential import SASRec
    from jaxrec.objectives.sequential import SequentialLoss, sequential
    from jaxrec.recommenders.sequential import SequentialConfig
    from jaxrec.training import optimizer
    from jaxrec.training.step import init_state, make_step

    cfg = SequentialConfig(loss=SequentialLoss("full"))
    shape = cfg.model
    ours = (shape.d_model, shape.layers, shape.heads, shape.d_ff, shape.max_length, shape.dropout)
    assert ours == (
        beauty.WIDTH, beauty.LAYERS, beauty.HEADS, beauty.INNER, beauty.LENGTH, beauty.DROPOUT
    )  # fmt: skip
    fixed = what == "step"
    items = beauty.ITEMS if fixed else beauty.items()
    people = list(beauty.full_batch()) if fixed else beauty.training()
    histories = from_lists([row - 1 for row in people], items)
    width = beauty.LENGTH if fixed else cfg.width
    rows = pack(histories, width, shape.max_length, count=shape.count)
    batch = len(rows.items_BL) if fixed else cfg.positions // width
    model = SASRec(type(shape)(items=histories.n_items))
    mesh = meshes.make(meshes.MeshConfig(), jax.devices()[:1])
    first = jax.tree.map(lambda leaf: jnp.asarray(leaf[:1]), rows)
    params = model.init(jax.random.key(0), first)["params"]
    adam = optimizer.make(cfg.opt, steps=1_000_000)
    state = init_state(mesh, params, adam)
    step = make_step(*sequential(model, cfg.loss), adam, state)
    key, losses = jax.random.key(0), []

    if fixed:
        placed = meshes.place_batch(mesh, rows, batch)

        def one_step() -> None:
            nonlocal state
            state, metrics = step(state, None, placed, key)
            losses.append(metrics.fetch()["loss"])

        first_loss = lambda: np.array(losses[:1])
        return {"work": Work(one_step, first_loss, versions(), {"nats_by_step": losses})}

    source = Prefetch(ArraySource(rows, batch))
    place = source.init()
    steps = -(-len(rows.items_BL) // batch)

    def epoch() -> None:
        nonlocal state, place
        total, before = 0.0, None
        for n in range(steps):
            part, place = source(n, None, place)
            state, metrics = step(state, None, meshes.place_batch(mesh, part, batch), key)
            total, before = total + (before.fetch()["loss"] if before else 0.0), metrics
        losses.append((total + before.fetch()["loss"]) / steps)

    return {"work": Work(epoch, None, versions(), {"nats_by_epoch": losses})}

"""Our DeepMF: tables updated by row, several updates a call."""

from bench.race import ratings
from bench.race.jax_decode import versions
from bench.race.worker import Work


def prepare() -> dict[str, Work]:
    """`ratings.STEPS` training steps, as `recommenders.deepmf` makes them."""
    import jax
    import numpy as np

    from jaxrec import mesh as meshes
    from jaxrec import objectives
    from jaxrec.data.source import ArraySource, Prefetch
    from jaxrec.models.items import deepmf
    from jaxrec.recommenders.deepmf import DeepMFConfig
    from jaxrec.training import optimizer
    from jaxrec.training.step import init_state, make_step

    cfg = DeepMFConfig()
    updates = cfg.fit.updates
    people, items, told = ratings.ratings()
    data = deepmf.Ratings(people, items, told)
    source = Prefetch(ArraySource(data, ratings.BATCH * updates))
    mesh = meshes.make(meshes.MeshConfig(), jax.devices()[:1])
    mean = float(np.mean(told))
    params = deepmf.init(jax.random.key(0), cfg.shape, ratings.USERS, ratings.ITEMS, mean=mean)
    adam = optimizer.make(cfg.fit.opt, steps=1_000_000)
    tables = objectives.deepmf_tables()
    state = init_state(mesh, params, adam, tables=tables)
    step = make_step(*objectives.deepmf(cfg.shape), adam, state, tables=tables, updates=updates)
    key, place = jax.random.key(0), source.init()

    def steps() -> None:
        nonlocal state, place
        before = None
        for n in range(ratings.STEPS // updates):
            part, place = source(n, None, place)
            part = meshes.place_batch(mesh, part, ratings.BATCH * updates)
            state, metrics = step(state, None, part, key)
            if before:
                before.fetch()
            before = metrics
        before.fetch()

    return {"work": Work(steps, None, versions())}

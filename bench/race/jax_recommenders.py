"""Training steps of HSTU over ML-1M's catalogue and TIGER over Beauty's, on histories made up to size.

The models and batches are those of configs/recommend/ml1m_hstu.py and configs/recommend/beauty_tiger.py.
"""

from importlib import import_module
from typing import Any

from bench.race import chip
from bench.race.jax_decode import versions
from bench.race.worker import Work


def prepare(model: str = "hstu", rows: int = 0) -> dict[str, Work]:
    """model: "hstu" or "tiger". rows: of a batch; 0: those of the configuration. The answer: the first step's loss."""
    import jax
    import numpy as np

    from jaxrec import mesh as meshes
    from jaxrec.training import optimizer
    from jaxrec.training.step import init_state, make_step

    objective, init, batch, frozen, opt = {"hstu": _hstu, "tiger": _tiger}[model](rows)
    mesh = meshes.make(meshes.MeshConfig(), jax.devices()[:1])
    adam = optimizer.make(opt, steps=1_000_000)
    state = init_state(mesh, jax.jit(init)(jax.random.key(0)), adam)
    step = make_step(*objective, adam, state)
    count = len(jax.tree.leaves(batch)[0])
    placed, kept = meshes.place_batch(mesh, batch, count), meshes.place(mesh, frozen)
    key, losses = jax.random.key(0), []

    def one_step() -> None:
        nonlocal state
        state, metrics = step(state, kept, placed, key)
        losses.append(metrics.fetch()["loss"])

    info = {"chip": chip.ours(), "rows": count}
    first = lambda: np.array(losses[:1])
    return {"work": Work(one_step, first, versions(), info, memory=chip.our_memory())}


def _recommender(name: str) -> Any:
    """The recommender of an experiment file."""
    return import_module(f"jaxrec.configs.recommend.{name}").config.recommender


def _hstu(rows: int) -> tuple[Any, ...]:
    import dataclasses

    import jax
    import numpy as np

    from jaxrec.data.histories import from_lists
    from jaxrec.data.history_rows import pack
    from jaxrec.models.items.hstu import HSTU
    from jaxrec.objectives.sequential import sequential

    cfg, items = _recommender("ml1m_hstu"), 3416
    rng, width = np.random.default_rng(0), cfg.width
    people = rng.integers(0, items, (rows or cfg.positions // width, width + 1))
    batch = pack(from_lists(people.tolist(), items), width, cfg.model.max_length)
    model = HSTU(dataclasses.replace(cfg.model, items=items))
    first = jax.tree.map(lambda leaf: leaf[:1], batch)
    init = lambda key: model.init(key, first)["params"]
    return sequential(model, cfg.loss), init, batch, None, cfg.opt


def _tiger(rows: int) -> tuple[Any, ...]:
    import dataclasses

    import jax.numpy as jnp
    import numpy as np

    from jaxrec.models.items.tiger import Tiger
    from jaxrec.objectives.generative_rec import tiger

    cfg, items, sizes = _recommender("beauty_tiger"), 12_101, (256, 256, 256, 256)
    rng, count = np.random.default_rng(0), rows or cfg.rows
    codes_IQ = rng.integers(0, 256, (items, len(sizes))).astype(np.int32)
    draw = lambda *shape: rng.integers(0, items, shape).astype(np.int32)
    batch = {"items": draw(count, cfg.max_length), "target": draw(count), "user": draw(count)}
    model = Tiger(dataclasses.replace(cfg.tiger, sizes=sizes))
    codes = jnp.asarray(codes_IQ[:1])
    asked = codes[:, None], jnp.ones((1, 1), bool), jnp.zeros(1, jnp.int32), codes
    init = lambda key: model.init(key, *asked)["params"]
    return tiger(model, cfg.smoothing), init, batch, {"codes": codes_IQ}, cfg.opt

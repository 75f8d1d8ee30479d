"""DeepMF at the specification's size: 728,000 people, 1.57 million items, 6.7 million ratings: speed and memory.

    python -m eval.deepmf_scale configs/recommend/deepmf_scale.py

The ratings are synthetic (Zipf popularity on both sides); model, batch and optimiser are the specified ones. Row-lazy
Adam is trained once over all epochs; dense Adam makes a few measured steps, and its time for all of them is
extrapolated and said so. Each runs in a process of its own, so the peak of memory is its own; the ratings are the same,
and so are the step and the source, those that every stage uses.
"""

import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any, Literal

import numpy as np

from jaxrec import config, results


@dataclasses.dataclass(frozen=True)
class DeepMFScale:
    """What is trained, and which process this is."""

    users: int = 728_000
    items: int = 1_570_000
    ratings: int = 6_700_000
    zipf: float = 1.1  # exponent of popularity on both sides
    test_share: float = 0.2  # left out of training, its RMSE told at the end
    batch: int = 1024
    epochs: int = 5
    updates: int = 64  # of the batch's size in one call
    dense_steps: int = 6
    contender: Literal["", "row-lazy", "dense"] = ""  # "": both, each in a process of its own
    seed: int = 0
    out: str = "results/scale"


def main(cfg: DeepMFScale) -> list[dict[str, Any]]:
    """Runs both contenders and writes OUT/deepmf.json; or, as one of them, prints its row."""
    if cfg.contender:
        row = train(cfg)
        print(json.dumps(row))
        return [row]
    began = time.perf_counter()
    rows = [in_a_process(cfg, contender) for contender in ("row-lazy", "dense")]
    for row in rows:
        row["speedup"] = row["interactions_per_s"] / rows[1]["interactions_per_s"]
    results.print_table(rows)
    results.write_results(
        cfg.out, "scale", rows, config=cfg, seed=cfg.seed, wall_s=time.perf_counter() - began,
        filename="deepmf.json",
    )  # fmt: skip
    return rows


def in_a_process(cfg: DeepMFScale, contender: str) -> dict[str, Any]:
    """One contender's row, from a fresh process."""
    flags = [
        f"--{field.name.replace('_', '-')}={getattr(cfg, field.name)}"
        for field in dataclasses.fields(cfg)
        if field.name != "contender"
    ]
    words = [sys.executable, "-m", "jaxrec.eval.deepmf_scale", *flags, f"--contender={contender}"]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, env=os.environ)
    if done.returncode:
        raise config.RunError(f"{contender} ended with status {done.returncode}: see above")
    return json.loads(done.stdout.splitlines()[-1])


def train(cfg: DeepMFScale) -> dict[str, Any]:
    """One contender: all epochs row-lazy, or a few steps of dense Adam."""
    import jax

    from jaxrec import mesh, objectives
    from jaxrec.data.source import ArraySource, Prefetch
    from jaxrec.models.items import deepmf as model
    from jaxrec.models.items.deepmf import DeepMFShape, Ratings
    from jaxrec.recommenders.deepmf_fit import FitConfig, rmse_of
    from jaxrec.training import optimizer, step

    lazy = cfg.contender == "row-lazy"
    train_part, test = synthetic(cfg)
    updates = cfg.updates if lazy else 1
    rows, shape = cfg.batch * updates, DeepMFShape()
    devices = mesh.make(mesh.MeshConfig(data=1, fsdp=-1))
    optim = optimizer.make(FitConfig().opt, 1)
    tables = objectives.deepmf_tables() if lazy else None
    begin = lambda key: model.init(key, shape, cfg.users, cfg.items, mean=3.0)
    params = mesh.sharded_init(devices, begin, jax.random.key(cfg.seed))
    source = Prefetch(ArraySource(Ratings(*train_part), rows, seed=cfg.seed))
    state = step.init_state(devices, params, optim, source=source.init(), tables=tables)
    del params
    one = step.make_step(*objectives.deepmf(shape), optim, state, tables=tables, updates=updates)
    place, state = state.source, state.replace(source=None)
    key = jax.device_put(jax.random.key(cfg.seed), mesh.replicated(devices))
    calls = round(cfg.epochs * len(train_part[0]) / rows) if lazy else 1 + cfg.dense_steps
    seconds, began = [], 0.0
    for call in range(calls):
        batch, place = source(call, None, place)
        before = time.perf_counter()
        state, metrics = one(state, None, mesh.place_batch(devices, batch, rows), key)
        if call == 0 or not lazy:
            metrics.fetch()
        if call == 0:  # it also compiles
            began = time.perf_counter()
        else:
            seconds.append(time.perf_counter() - before)
    mse = metrics.fetch()["mse"]
    wall = time.perf_counter() - began
    each = wall / (calls - 1) if lazy else statistics.median(seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    steps = round(cfg.epochs * len(train_part[0]) / cfg.batch)
    rmse = rmse_of(shape, model.SideFacts(), Ratings(*test)) if lazy else None
    return {
        "contender": cfg.contender, "users": cfg.users, "items": cfg.items, "train": len(train_part[0]),
        "interactions_per_s": round(rows / each), "ms_per_step": 1e3 * each / updates,
        "steps_made": calls * updates, "steps_of_all_epochs": steps,
        "all_epochs_s": steps * each / updates, "extrapolated": not lazy, "peak_mb": round(peak),
        "last_mse": mse, "test_rmse": rmse(state.params, 0)["rmse"] if rmse else None,
        "test_rmse_of_the_mean": float(np.std(test[2])),
    }  # fmt: skip


def synthetic(cfg: DeepMFScale) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """(user, item, rating) of training and test: ratings of planted biases and noise, popularity a power of rank."""
    rng = np.random.default_rng(cfg.seed)

    def drawn(size: int) -> np.ndarray:
        # The inverse of the bounded Pareto distribution, rounded down; ranks are then shuffled into numbers.
        u, a = rng.random(cfg.ratings), cfg.zipf - 1
        rank = (1 - u * (1 - (size + 1.0) ** -a)) ** (-1 / a) - 1
        return rng.permutation(size).astype(np.int32)[np.minimum(rank.astype(np.int64), size - 1)]

    user_T, item_T = drawn(cfg.users), drawn(cfg.items)
    bias_U, bias_I = rng.normal(0, 0.6, cfg.users), rng.normal(0, 0.6, cfg.items)
    said_T = 3.6 + bias_U[user_T] + bias_I[item_T] + rng.normal(0, 0.8, cfg.ratings)
    rating_T = np.clip(np.round(said_T), 1, 5).astype(np.float32)
    held = round(cfg.test_share * cfg.ratings)
    whole = (user_T, item_T, rating_T)
    return tuple(x[held:] for x in whole), tuple(x[:held] for x in whole)


if __name__ == "__main__":
    config.run(main, DeepMFScale, __doc__)

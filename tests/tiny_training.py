"""A tiny model and its training, for the tests of the training room; also a program for those that need processes.

    python tests/tiny_training.py OUT [--steps 30 --save-every 5 --fsdp 1 --accum 1 --slow 0.05 ...]

It has what makes resuming hard: dropout, a shuffled source, Adam, a table updated by row, an `extra` that moves
without gradient, and frozen weights.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import config as configs
from jaxrec import elastic, processes, tables
from jaxrec import mesh as meshes
from jaxrec.data.source import ArraySource
from jaxrec.structs import Aux
from jaxrec.training import gradients, loop, optimizer
from jaxrec.training import step as steps

PEOPLE, WIDTH, ROWS = 24, 8, 16
TABLES = {"users/table": tables.RowAdam(ids=lambda batch: batch["user"], b2=0.95)}


def arrays(size: int = 100) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(size, WIDTH)).astype(np.float32),
        "y": rng.normal(size=size).astype(np.float32),
        "w": rng.uniform(0.1, 1, size=size).astype(np.float32),
        "user": rng.integers(0, PEOPLE, size=size).astype(np.int32),
    }


def params() -> dict:
    rng = np.random.default_rng(1)
    draw = lambda *shape: rng.normal(size=shape, scale=0.3).astype(np.float32)
    return {
        "mlp": {"up": {"kernel": draw(WIDTH, 16), "bias": draw(16)}},
        "head": {"kernel": draw(16, 1)},
        "users": {"table": draw(PEOPLE, WIDTH)},
    }


def frozen() -> dict:
    return {
        "teacher": {"kernel": np.random.default_rng(2).normal(size=(WIDTH, 1)).astype(np.float32)}
    }


def weigh(batch: dict) -> dict:
    """Two terms with different weights: the case that normalising per microbatch gets wrong."""
    return {"fit": batch["w"].sum(), "distil": (batch["user"] % 3 == 0).sum().astype(jnp.float32)}


def loss(params, frozen, extra, batch, totals, key_B, drop: float = 0.2):
    x_BD = batch["x"] + tables.lookup(params["users"]["table"], batch["user"])
    h_BF = jnp.tanh(x_BD @ params["mlp"]["up"]["kernel"] + params["mlp"]["up"]["bias"][None])
    keep_BF = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - drop, h_BF.shape[1:]))(key_B)
    out_B = (h_BF * keep_BF @ params["head"]["kernel"])[:, 0]
    some_B = (batch["user"] % 3 == 0).astype(jnp.float32)
    fit = (batch["w"] * (out_B - batch["y"]) ** 2).sum() / totals["fit"]
    taught_B = (batch["x"] @ frozen["teacher"]["kernel"])[:, 0]
    distil = (some_B * (out_B - taught_B) ** 2).sum() / jnp.maximum(totals["distil"], 1)
    stats = {"sum": out_B.sum(), "count": jnp.float32(out_B.shape[0])}
    metrics = {"fit": fit, "distil": distil, "tokens": batch["w"].sum()}
    return fit + 0.5 * distil, Aux(metrics, jax.lax.stop_gradient(stats))


def commit(extra, stats):
    return {"mean": 0.9 * extra["mean"] + 0.1 * stats["sum"] / stats["count"]}


def build(
    mesh,
    *,
    accum: int = 1,
    lr: float = 1e-2,
    of: int = 100,
    share: slice | None = None,
    by_row=True,
    rows: int = ROWS,
):
    """(step, state, source) on a mesh."""
    source = ArraySource(arrays(), rows, seed=3, share=share)
    opt = optimizer.make(optimizer.OptConfig(lr=lr, warmup=3, weight_decay=0.01), of)
    by_path = TABLES if by_row else None
    state = steps.init_state(
        mesh,
        params(),
        opt,
        extra={"mean": np.zeros((), np.float32)},
        source=source.init(),
        tables=by_path,
    )
    step = steps.make_step(
        loss, weigh, opt, state, gradients=gradients.summed(accum), commit=commit, tables=by_path
    )
    return step, state, source


def train(
    out,
    *,
    steps: int,
    mesh=None,
    accum: int = 1,
    slow: float = 0.0,
    lr: float = 1e-2,
    rows: int = ROWS,
    fail_at: int = 0,
    **options,
):
    """Runs `loop.fit`; `slow` seconds are slept in each batch, so that a test can interrupt it.

    fail_at: the step whose batch the last process of the job cannot make.
    """
    mesh = mesh or meshes.make(meshes.MeshConfig(), jax.devices()[:1])
    share = meshes.process_rows(mesh, rows)
    step, state, source = build(mesh, accum=accum, lr=lr, share=share, rows=rows)

    def slowly(number, params, state):
        time.sleep(slow)
        if fail_at and number == fail_at and jax.process_index() == jax.process_count() - 1:
            raise OSError("no such row")
        return source(number, params, state)

    config = loop.LoopConfig(**{"steps": steps, "progress": False, "log_every": 1, **options})
    return loop.fit(
        step, state, slowly, config=config, mesh=mesh, rows=rows, out=out, frozen=frozen()
    )


def numbers(tree) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    whole = {
        "steps": 30,
        "save-every": 0,
        "eval-every": 0,
        "fsdp": 1,
        "accum": 1,
        "rows": ROWS,
        "fail-at": 0,
    }
    for name, default in {**whole, "silence": 30}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--slow", type=float, default=0.0)
    args = parser.parse_args()
    processes.start(processes.HostsConfig(silence=args.silence))
    options = {"steps": args.steps, "save_every": args.save_every, "eval_every": args.eval_every}
    options |= {"rows": args.rows, "slow": args.slow, "fail_at": args.fail_at}
    try:
        mesh, accum = elastic.arrange(
            meshes.MeshConfig(fsdp=args.fsdp), args.rows, args.accum, args.out
        )
        fitted = train(args.out, mesh=mesh, accum=accum, **options)
    except configs.RunError as error:
        configs.fail(error, f"error: {error}", error.status)
    gathered = jax.jit(lambda tree: tree, out_shardings=meshes.replicated(mesh))(
        fitted.state.replace(source=None)
    )
    if jax.process_index() == 0:
        np.savez(args.out / "final.npz", *numbers(gathered), *numbers(fitted.state.source))


if __name__ == "__main__":
    main()

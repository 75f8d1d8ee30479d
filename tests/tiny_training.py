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
from jaxrec import mesh as meshes
from jaxrec import processes, tables
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
):
    """(step, state, source) on a mesh."""
    source = ArraySource(arrays(), ROWS, seed=3, share=share)
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
    out, *, steps: int, mesh=None, accum: int = 1, slow: float = 0.0, lr: float = 1e-2, **options
):
    """Runs `loop.fit`; `slow` seconds are slept in each batch, so that a test can interrupt it."""
    mesh = mesh or meshes.make(meshes.MeshConfig(), jax.devices()[:1])
    share = meshes.process_rows(mesh, ROWS)
    step, state, source = build(mesh, accum=accum, lr=lr, share=share)

    def slowly(number, params, state):
        time.sleep(slow)
        return source(number, params, state)

    config = loop.LoopConfig(**{"steps": steps, "progress": False, "log_every": 1, **options})
    return loop.fit(
        step, state, slowly, config=config, mesh=mesh, rows=ROWS, out=out, frozen=frozen()
    )


def numbers(tree) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    for name in ("steps", "save-every", "eval-every", "fsdp", "accum"):
        parser.add_argument(
            f"--{name}", type=int, default={"steps": 30, "fsdp": 1, "accum": 1}.get(name, 0)
        )
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--silence", type=int, default=30)
    args = parser.parse_args()
    processes.start(processes.HostsConfig(silence=args.silence))
    mesh = meshes.make(meshes.MeshConfig(fsdp=args.fsdp))
    options = {"steps": args.steps, "save_every": args.save_every, "eval_every": args.eval_every}
    try:
        fitted = train(args.out, mesh=mesh, accum=args.accum, slow=args.slow, **options)
    except configs.RunError as error:
        configs.fail(error, f"error: {error}", error.status)
    whole = jax.jit(lambda tree: tree, out_shardings=meshes.replicated(mesh))(
        fitted.state.replace(source=None)
    )
    if jax.process_index() == 0:
        np.savez(args.out / "final.npz", *numbers(whole), *numbers(fitted.state.source))


if __name__ == "__main__":
    main()

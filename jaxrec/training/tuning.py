"""Floor 2: what every training script does between its config and its files: split, train, take the best, say.

    trained, frozen = parts(tree, "delta")
    fitted = tune(objective, trained, source, opt=cfg.opt, config=cfg.loop, mesh=devices, ...)
    best = best_of(cfg.out, fitted.state.params)

A model is known here as a tree and as the two functions of its objective.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np

from jaxrec import checkpoint
from jaxrec import mesh as meshes
from jaxrec.training import loop, optimizer, partition, step
from jaxrec.training.gradients import Gradients, LossFn, Weigh
from jaxrec.training.loop import FitResult, LoopConfig
from jaxrec.training.optimizer import OptConfig

Tree = Any
Row = TypeVar("Row")


@runtime_checkable
class Omissions(Protocol):
    """What a reader left out."""

    def lines(self) -> Iterable[str]:
        """A line for each reason: how many rows, and which was the first."""


def parts(tree: dict[str, Tree], rule: str) -> tuple[dict[str, Tree], dict[str, Tree]]:
    """(what trains, what stays frozen) by a rule over paths; a rule that names a tree's only part trains all of it.

    Raises PartitionError for a rule that matches nothing, or by accident everything.
    """
    if len(tree) == 1 and rule == f"{next(iter(tree))}/.*":
        return tree, {}
    return partition.split(tree, rule)


def tune(
    objective: tuple[LossFn, Weigh],
    params: Tree,
    source: Any,
    *,
    opt: OptConfig,
    config: LoopConfig,
    mesh: jax.sharding.Mesh,
    rows: int,
    out: str | Path,
    frozen: Tree = None,
    extra: Tree = None,
    gradients: Gradients | None = None,
    commit: Callable[[Tree, Tree], Tree] | None = None,
    tables: step.Tables | None = None,
    updates: int = 1,
    **fit: Any,
) -> FitResult:
    """Makes the optimiser, the state and the step, and trains to the end of `config`, or goes on where OUT stopped.

    Args:
      objective: (loss, weigh), as a function of `jaxrec.objectives` gives them.
      params: what trains; copied, so the caller's arrays stay. frozen: the rest that the loss reads, never copied.
      source: batches of `rows` rows (B, of the whole job), with `init()` for its first state.
      opt, config: the optimiser's and the loop's settings. mesh: where all of it lies. out: the run's folder.
      extra: state that is no parameter (codebooks), and `commit`, which moves it once a step.
      gradients, tables, updates: as of `step.make_step`.
      fit: further keywords of `loop.fit`: evaluate, resolved, facts, title, programs.
    Raises what `loop.fit` raises.
    """
    # The schedule counts updates, and a call of the step makes `updates` of them.
    optim = optimizer.make(opt, config.steps * updates)
    state = step.init_state(mesh, params, optim, extra=extra, source=source.init(), tables=tables)
    one = step.make_step(
        *objective, optim, state, gradients=gradients, commit=commit, tables=tables, updates=updates
    )
    return loop.fit(
        one, state, source, config=config, mesh=mesh, rows=rows, out=out, frozen=frozen, **fit
    )


def best_of(out: str | Path, last: Tree) -> Tree:
    """The trained parameters with the best monitored value (OUT/best), of the form and in the places of the last ones.

    Raises CheckpointError where OUT holds none, or other parameters.
    """
    saved = dict(partition.paths(checkpoint.load_params(Path(out) / "best")))

    def place(keys: Any, like: jax.Array) -> jax.Array:
        path = meshes.path_of(keys)
        found = saved.get(path)
        if found is None or np.shape(found) != like.shape:
            raise checkpoint.CheckpointError(f"{out}/best holds other parameters: see {path}")
        # In the layout of the last parameters, so that the programs that were compiled for those serve these.
        return jax.device_put(np.asarray(found), like.sharding)

    return jax.tree_util.tree_map_with_path(place, last)


def read_all(
    sources: Iterable[str], read: Callable[[str], tuple[Sequence[Row], Omissions]]
) -> list[Row]:
    """The rows of all sources one after the other; what a reader left out is printed."""
    rows: list[Row] = []
    for source in sources:
        own, skipped = read(source)
        rows += own
        say(source, skipped)
    return rows


def say(what: str, skipped: Omissions) -> None:
    """Prints what was left out, a line for each reason."""
    for line in skipped.lines():
        print(f"{what}: {line}", flush=True)

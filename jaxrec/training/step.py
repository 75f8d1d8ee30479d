"""The one training step: a jitted pure function (state, frozen, batch, key) -> (state, Metrics).

`state` is donated, `frozen` (backbone, teacher, reference policy) is an argument: no gradient, no optimiser memory, not
donated, not a constant of the program. Only what `state.params` holds is trained.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct as struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from jaxrec import mesh as meshes
from jaxrec import quant
from jaxrec import tables as rows
from jaxrec.structs import TrainState
from jaxrec.training.gradients import (
    Gradients,
    LossFn,
    Weigh,
    norm_of,
    rows_of,
    summed,
    through,
    to_microbatches,
)
from jaxrec.training.optimizer import Optimizer
from jaxrec.training.partition import merge, paths, unflatten

Tree = Any
Tables = Mapping[str, rows.RowAdam]  # parameter path -> how that table is updated by row


@struct.dataclass
class Metrics:
    """A step's numbers as one array, so that the log fetches them in one transfer."""

    values: Any  # [M], float32
    names: tuple[str, ...] = struct.field(pytree_node=False)

    def fetch(self) -> dict[str, float]:
        """The numbers by name; waits until the devices have them."""
        return dict(zip(self.names, np.asarray(self.values).tolist(), strict=True))


def init_state(
    mesh: Mesh,
    params: Tree,
    optimizer: Optimizer,
    *,
    extra: Tree = None,
    source: Tree = None,
    tables: Tables | None = None,
    rules: meshes.Rules = meshes.RULES,
) -> TrainState:
    """A state on the mesh, every leaf where the rules put it.

    Parameters are copied: the step donates its state, and the caller may hold the same arrays elsewhere (a reference
    policy, say).

    Args:
      mesh: of the whole job.
      params: what trains.
      optimizer: gives the parameters' memory; none for those in `tables`.
      extra: what moves without gradient (codebooks, running means).
      source: the data source's first state (`source.init()`).
      tables: parameter paths that are updated by row.
      rules: which axis of the mesh cuts which axis of a leaf.

    Of `params` that are shapes alone (`jax.ShapeDtypeStruct`) the state is made of shapes, each with its sharding:
    what `make_step` can be lowered and compiled with before anything exists.
    Raises QuantError when quantised weights are among the parameters.
    """
    quant.refuse_training(params)

    def begin(params: Tree, extra: Tree) -> tuple[Tree, ...]:
        # with a type of its own: one that is weak, as of `jnp.full(n, 2.0)`, the first update would change, and the
        # step would be compiled again for the second, and for the third
        copy = lambda tree: jax.tree.map(lambda x: jnp.array(x, x.dtype), tree)
        params, extra = copy(params), copy(extra)
        return (
            jnp.zeros((), jnp.int32),
            params,
            _init_opt(optimizer, params, tables),
            extra,
        )

    params, extra = meshes.place(mesh, (params, extra), rules)
    shapes = jax.eval_shape(begin, params, extra)
    if meshes.is_abstract(params):
        return TrainState(*meshes.place(mesh, shapes, rules), source=source)
    layout = meshes.shardings(mesh, shapes, rules)
    # Made inside jit with the final layout, moments appear where they will lie: no device ever holds a whole one.
    return TrainState(*jax.jit(begin, out_shardings=layout)(params, extra), source=source)


def make_step(
    loss: LossFn,
    weigh: Weigh,
    optimizer: Optimizer,
    state: TrainState,
    *,
    gradients: Gradients | None = None,
    commit: Callable[[Tree, Tree], Tree] | None = None,
    tables: Tables | None = None,
    updates: int = 1,
) -> Callable[[TrainState, Tree, Tree, Array], tuple[TrainState, Metrics]]:
    """Builds the step: gradients, update and metrics in one compiled program.

    The state goes through with `source=None`: it is the loop's business. Metrics: those of the loss, `loss`, `lr`,
    `grad_norm` (before clipping), `total/TERM`, and for every group (first key of a path) `grad_norm/GROUP` and
    `param_norm/GROUP` (after the update; of a table: its rows in this batch).

    Args:
      loss: (params, frozen, extra, batch, totals, key_B) -> (value, Aux).
      weigh: batch -> the denominators of the loss, before the first microbatch.
      optimizer: of `optimizer.make`.
      state: gives the layout that the new state keeps (or every step would compile anew).
      gradients: how they are taken (default `summed(1)`).
      commit: (extra, stats) -> extra, once a step, on stats summed over microbatches.
      tables: parameter paths that are updated by row; there the loss finds `Rows` and reads them with
        `tables.lookup`.
      updates: so many updates are made in one call, each on its part of the batch (every `updates`-th row): for small
        models, whose time would go into calling. `state.step` and the loop count calls, the schedule counts updates,
        metrics are means over them.
    """
    gradients = gradients or summed()
    tables, mesh = dict(tables or {}), state.step.sharding.mesh
    # Noise on the rows of a batch alone would tell which rows those were: who takes part in a step is private as
    # well.
    if gradients.private and tables:
        raise ValueError(
            "clipped gradients put noise on every row: update tables densely, not by row"
        )

    def step(
        state: TrainState, frozen: Tree, batch: Tree, key: Array
    ) -> tuple[TrainState, Metrics]:
        meshes.check_batch(
            mesh, rows_of(batch), gradients.accum
        )  # while it is traced: costs nothing
        dense, whole = _apart(state.params, tables)
        # The loss sees the gathered rows and the gradient is taken towards those: towards the table it would be an
        # array of the table's size, nearly all of it zeros.
        ids = {p: rows.distinct(how.ids(batch), whole[p].shape[0]) for p, how in tables.items()}
        live = (dense, {p: rows.gather(whole[p], ids[p]) for p in tables})
        view = lambda live: _joined(live[0], {p: rows.Rows(live[1][p], ids[p]) for p in tables})
        # The key is folded with the step instead of being carried along and split: a resumed run then needs nothing
        # but the step to draw what the uninterrupted one would have drawn.
        grads, value, aux = gradients.take(
            through(loss, view), weigh, live, frozen, state.extra, batch,
            jax.random.fold_in(key, state.step),
        )  # fmt: skip
        norm = norm_of(grads)
        before = _by_group(grads)
        # Clipped here and not inside the optimiser: the norm spans dense weights and table rows, which optax does
        # not see together, and the log wants it from before the clipping.
        if optimizer.clip:
            factor = jnp.minimum(1.0, optimizer.clip / jnp.maximum(norm, 1e-12))
            grads = jax.tree.map(lambda g: g * factor.astype(g.dtype), grads)
        rate = optimizer.rate(state.step)
        params, opt = _apply(optimizer, tables, state.opt, (dense, whole), grads, ids, rate)
        # Norms of the rows in this batch: those of the whole table would cost reading it at every step.
        touched = {
            p: rows.gather(table, ids[p]) for p, table in params[1].items()
        }  # never all of it
        extra = commit(state.extra, aux.stats) if commit else state.extra
        numbers = {
            **aux.metrics,
            **{f"total/{term}": total for term, total in weigh(batch).items()},
            **{f"grad_norm/{group}": norm_of(part) for group, part in before.items()},
            **{
                f"param_norm/{group}": norm_of(part)
                for group, part in _by_group((params[0], touched)).items()
            },
            "loss": value,
            "lr": rate,
            "grad_norm": norm,
        }
        metrics = Metrics(
            jnp.stack([jnp.asarray(v, jnp.float32) for v in numbers.values()]), tuple(numbers)
        )
        new = state.replace(step=state.step + 1, params=_joined(*params), opt=opt, extra=extra)
        return new, metrics

    def several(
        state: TrainState, frozen: Tree, batch: Tree, key: Array
    ) -> tuple[TrainState, Metrics]:
        # The schedule and the random keys count updates, the loop (log, checkpoints) counts calls: the step is
        # stretched for the scan and put back behind it.
        calls = state.step
        one = lambda state, part: step(state, frozen, part, key)
        state, metrics = jax.lax.scan(
            one, state.replace(step=calls * updates), to_microbatches(batch, updates)
        )
        return state.replace(step=calls + 1), metrics.replace(values=metrics.values.mean(0))

    # The new state is pinned to the old one's layout: left to the compiler it may come out in another, and the next
    # call would compile anew. It is donated, or weights and moments would exist twice during the update; `frozen`
    # is not, as every later step reads it again.
    layout = jax.tree.map(lambda x: x.sharding, state.replace(source=None))
    made = several if updates > 1 else step

    @functools.wraps(made)
    def placed(*given: Any) -> tuple[TrainState, Metrics]:
        with meshes.within(mesh):
            return made(*given)

    return jax.jit(placed, donate_argnums=0, out_shardings=(layout, None))


def _init_opt(optimizer: Optimizer, params: Tree, tables: Tables | None) -> Tree:
    dense, whole = _apart(params, tables or {})
    return {
        "dense": optimizer.transform.init(dense),
        "rows": {path: rows.init(table) for path, table in whole.items()},
    }


def _apply(
    optimizer: Optimizer, tables: Tables, opt: Tree, params: Tree, grads: Tree, ids: Tree, rate: Any
) -> tuple[tuple[Tree, Tree], Tree]:
    """New (dense weights, tables) and the new optimiser state."""
    dense, whole = params
    updates, moments = optimizer.transform.update(grads[0], opt["dense"], dense)
    moved = {
        path: rows.update(how, whole[path], opt["rows"][path], ids[path], grads[1][path], rate)
        for path, how in tables.items()
    }
    new = optax.apply_updates(dense, updates), {path: table for path, (table, _) in moved.items()}
    return new, {"dense": moments, "rows": {path: state for path, (_, state) in moved.items()}}


def _apart(params: Tree, tables: Tables) -> tuple[Tree, dict[str, Any]]:
    """(weights that the optimiser updates, {path: table that is updated by row})."""
    if not tables:
        return params, {}
    leaves = dict(paths(params))
    if missing := [path for path in tables if path not in leaves]:
        raise ValueError(f"no table at {missing}; the parameters are {sorted(leaves)}")
    return unflatten({p: leaf for p, leaf in leaves.items() if p not in tables}), {
        p: leaves[p] for p in tables
    }


def _joined(dense: Tree, by_path: Mapping[str, Any]) -> Tree:
    return merge(unflatten(by_path), dense) if by_path else dense


def _by_group(live: tuple[Tree, Mapping[str, Any]]) -> dict[str, Tree]:
    """{group: leaves}: a group is the first key of the path, a table is a group of its own."""
    dense, tables = live
    groups = dict(dense) if isinstance(dense, Mapping) else {"params": dense}
    return {**groups, **tables}

"""Floor 1: large embedding tables (people, items): only the rows that a batch names are read, updated, or moved.

Dense Adam reads and writes the whole table at each step, and its momentum moves the vectors of people who are not
in the batch. Here the step gathers the distinct rows of the batch, the loss sees them as `Rows` in place of the
table, and `RowAdam` writes back those rows alone. A loss reads either form through one function:

    p_BE = tables.lookup(params["profile"]["p"], batch.user_B)      # id -1: nobody, a row of zeros

With all rows in every batch it equals dense Adam exactly; a row counts its own updates for the bias correction.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct as struct
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from jaxrec import mesh as meshes


@struct.dataclass
class Rows:
    """Some rows of a table. `ids_I` ascend without repeats; those >= the table's size stand for no row."""

    values_IE: (
        Any  # not annotated by shape: pytrees also carry shardings and shapes in these places
    )
    ids_I: Any


@struct.dataclass
class RowState:
    """Adam's moments of a table, and how often each row was updated."""

    mu: Any  # [U, E]
    nu: Any  # [U, E]
    seen: Any  # [U]


@dataclasses.dataclass(frozen=True)
class RowAdam:
    """How one table is updated. `ids` names the rows of a batch (any shape; negative: nobody).

    `rate` None: the learning rate of the optimiser at that step. `weight_decay` is decoupled and, like everything
    here, acts only on the rows that are present.
    """

    ids: Callable[[Any], Int[Array, "..."]]
    rate: float | None = None
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0


def lookup(table: Float[Array, "U E"] | Rows, ids: Int[Array, "*b"]) -> Float[Array, "*b E"]:
    """The vectors of `ids`, from a whole table or from the rows gathered for this batch.

    Negative ids give zeros and no gradient. An id that a `Rows` does not hold gives NaN, so that a mistake in
    `RowAdam.ids` cannot pass for a quiet zero; so does an id beyond a whole table.
    """
    if isinstance(table, Rows):
        # The ids ascend, so a binary search finds the row; a map from ids to places would be as long as the table.
        place = jnp.searchsorted(table.ids_I, ids).astype(jnp.int32)
        held = table.ids_I.at[place].get(mode="fill", fill_value=-1) == ids
        values = table.values_IE
        place = jnp.where(held, place, values.shape[0])
    else:
        values, place = table, ids
    # Negative indices count from the end in JAX as in numpy: unless it is moved out of range, nobody (-1) would
    # read the last person's row, and train it.
    place = jnp.where(ids < 0, values.shape[0], place)
    found = values.at[place].get(mode="fill", fill_value=jnp.nan)
    return meshes.put(jnp.where((ids < 0)[..., None], 0.0, found), "rows")


def distinct(ids: Int[Array, "..."], size: int) -> Int[Array, "I"]:
    """The distinct ids of a batch, ascending, in a static shape; the free places hold ids from `size` upwards."""
    # As many places as there are ids, repeats included: under jit a shape may not depend on how many of them
    # differ.
    flat = ids.reshape(-1)
    ordered = jnp.sort(jnp.where(flat < 0, size, flat))
    first = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]]) & (ordered < size)
    # Distinct numbers in the free places too: the scatter may then be told that its indices never repeat.
    free = size + jnp.arange(len(flat), dtype=ordered.dtype)
    return free.at[jnp.where(first, jnp.cumsum(first) - 1, len(flat))].set(ordered, mode="drop")


def gather(table: Shaped[Array, "U *e"], ids: Int[Array, "I"]) -> Shaped[Array, "I *e"]:
    """Rows of a table by `distinct` ids; zeros in the free places."""
    return table.at[ids].get(
        mode="fill", fill_value=0, indices_are_sorted=True, unique_indices=True
    )


def init(table: Float[Array, "U E"]) -> RowState:
    """Moments of zero for a table."""
    zeros = jnp.zeros(table.shape, jnp.float32)
    return RowState(mu=zeros, nu=zeros, seen=jnp.zeros(table.shape[:1], jnp.int32))


def update(
    how: RowAdam,
    table: Float[Array, "U E"],
    state: RowState,
    ids: Int[Array, "I"],
    grad_IE: Float[Array, "I E"],
    rate: Float[Array, ""] | float,
) -> tuple[Float[Array, "U E"], RowState]:
    """One step of Adam (Kingma & Ba 2015) on the rows `ids`; every other row keeps its value and its moments.

    how: Adam's settings. table: U rows. state: their moments. ids: the rows, sorted, each once. grad_IE: their
    gradients. rate: the learning rate of this step.
    """
    rate = rate if how.rate is None else how.rate
    # Moments are f32 whatever the table's type: with b2 = 0.999 one update changes nu by a thousandth, which
    # bfloat16 cannot add.
    grad_IE = grad_IE.astype(jnp.float32)
    mu = how.b1 * gather(state.mu, ids) + (1 - how.b1) * grad_IE
    nu = how.b2 * gather(state.nu, ids) + (1 - how.b2) * grad_IE**2
    # Each row counts its own updates. Corrected by the global step, a row first met late in the run would make a
    # first move of (1 - b1) / sqrt(1 - b2), three times the learning rate.
    seen = gather(state.seen, ids) + 1
    t = seen.astype(jnp.float32)[:, None]
    move = (mu / (1 - how.b1**t)) / (jnp.sqrt(nu / (1 - how.b2**t)) + how.eps)
    rows = gather(table, ids)
    # Decay is decoupled (Loshchilov & Hutter 2019): it stays out of the moments, which would divide it away.
    rows = rows - (rate * (move + how.weight_decay * rows)).astype(rows.dtype)
    # The free places of `ids` lie behind the table's end and are dropped; clamped, as `dynamic_update_slice` has
    # it, they would overwrite the last row. The promises about order and repeats are kept by `distinct`.
    put = lambda whole, part: whole.at[ids].set(
        part.astype(whole.dtype), mode="drop", indices_are_sorted=True, unique_indices=True
    )
    return put(table, rows), RowState(put(state.mu, mu), put(state.nu, nu), put(state.seen, seen))

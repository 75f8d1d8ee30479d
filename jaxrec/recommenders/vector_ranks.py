"""Floor 4: ranks among all items where a score is an inner product, without keeping the scores.

What `ranking.ranks` counts in a matrix of scores is counted here block by block on the device: 22,000 people by 12,000
items in under a second on two cores. Ties count against the target, as there; so does a score that is not a number.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxrec.data.histories import Holdout

BLOCK = 512  # people


def ranks(
    z_BD: Float[np.ndarray, "B D"],
    items_ID: Float[Array, "I D"] | Float[np.ndarray, "I D"],
    holdout: Holdout,
    mask_seen: bool = True,
) -> Int[np.ndarray, " B"]:
    """The place of each row's target, from 1, among all items or among those that the row does not hold already.

    A target that is left out with them has the place behind the last, as in `ranking.ranks`.

    z_BD: the vector of each row. items_ID: of each item. holdout: the histories and the target of each row.
    mask_seen: whether items that the history holds are left out.
    """
    blocks = [np.arange(at, min(at + BLOCK, len(holdout))) for at in range(0, len(holdout), BLOCK)]
    start_B = holdout.histories.start_B
    held = [int(start_B[b[-1] + 1] - start_B[b[0]]) if mask_seen else 0 for b in blocks]
    # One size for all blocks, so that all of them go through one program.
    room = max(held, default=0)
    items_ID = jnp.asarray(items_ID)
    found = []
    for rows in blocks:
        fill = lambda x, size, nothing: np.pad(x, (0, size - len(x)), constant_values=nothing)
        part = holdout.histories.take(rows) if mask_seen else None
        row_T = fill(part.row_T, room, BLOCK) if mask_seen else np.zeros(0, np.int64)
        item_T = fill(part.item_T, room, 0) if mask_seen else np.zeros(0, np.int64)
        z_XD = np.pad(z_BD[rows], ((0, BLOCK - len(rows)), (0, 0)))
        target_X = fill(holdout.target_B[rows], BLOCK, 0)
        found.append((_count(z_XD, items_ID, target_X, row_T, item_T), len(rows)))
    return np.concatenate([np.zeros(0, np.int64)] + [np.asarray(r)[:n] for r, n in found])


@jax.jit
def _count(z_BD: Array, items_ID: Array, target_B: Array, row_T: Array, item_T: Array) -> Array:
    scores_BI = z_BD @ items_ID.T
    own_B1 = jnp.take_along_axis(scores_BI, target_B[:, None], 1)
    scores_BI = scores_BI.at[row_T, item_T].set(-jnp.inf, mode="drop")
    rows_B = jnp.arange(len(target_B))
    # The target counts itself, whatever became of its score; a target that was left out has no place at all.
    scores_BI = scores_BI.at[rows_B, target_B].set(own_B1[:, 0])
    gone_B = jnp.zeros(len(target_B), bool)
    gone_B = gone_B.at[row_T].max(item_T == target_B[row_T], mode="drop")
    # Not less, rather than greater or equal: a score that is NaN then counts against the target.
    return jnp.where(gone_B, len(items_ID) + 1, jnp.sum(~(scores_BI < own_B1), axis=1))

"""Floor 4: DeepMF's stage: squared error of ratings, and the rows of a batch that its tables are updated by."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxrec.models.items import deepmf as model
from jaxrec.models.items.deepmf import DeepMFShape, Ratings
from jaxrec.objectives.objective import Objective
from jaxrec.structs import Aux
from jaxrec.tables import RowAdam


@dataclasses.dataclass(frozen=True)
class RatingDecay:
    """L2 of what a rating touches, added to its squared error: frequent rows are held back as often as pulled."""

    rows: float = 0.0  # the two tables' own rows, without their biases
    biases: float = 0.0
    shared: float = 0.0  # what features and implicit terms add to them


def deepmf(shape: DeepMFShape, decay: RatingDecay = RatingDecay()) -> Objective:
    """Mean squared error over real rows (item >= 0), plus `decay`. frozen: a `SideFacts`, or None. Metrics: `mse`."""
    head = model.RatingHead(shape)
    decayed = any(dataclasses.astuple(decay))

    def loss(params, frozen, extra, batch: Ratings, totals, key_B):
        del extra
        real_B = (batch.item_B >= 0).astype(jnp.float32)
        user, item, own, its = model.sides(shape, params, frozen, batch.user_B, batch.item_B)
        keep = None
        if shape.dropout:
            draw = lambda key: jax.random.bernoulli(key, 1 - shape.dropout, (2 * shape.width,))
            # By each row's own key, and over the share that is kept, so that nothing has to be scaled when it is
            # asked.
            keep = jax.vmap(draw)(key_B) / (1 - shape.dropout)
        rating_B = head.apply({"params": params["head"]}, user, item, batch.context_BK, keep)
        mse = (real_B * (rating_B - batch.rating_B) ** 2).sum() / totals["ratings"]
        total = mse
        if decayed:
            e = shape.width
            square = lambda x: (real_B[:, None] * x**2).sum() / totals["ratings"]
            total += decay.rows * (square(own[:, :e]) + square(its[:, :e]))
            total += decay.biases * (square(own[:, e:]) + square(its[:, e:]))
            # Less the table's own row, a side is what features and implicit terms have added to it.
            total += decay.shared * (square(user - own) + square(item - its))
        return total, Aux({"mse": mse})

    weigh = lambda batch: {"ratings": jnp.maximum((batch.item_B >= 0).sum(), 1).astype(jnp.float32)}
    return Objective(loss, weigh)


def deepmf_tables(rate: float | None = None) -> dict[str, RowAdam]:
    """How the two large tables are updated: only the rows of the batch (b2 as Adam's own default)."""
    return {
        "users/table": RowAdam(ids=lambda batch: batch.user_B, rate=rate),
        "items/table": RowAdam(ids=lambda batch: batch.item_B, rate=rate),
    }

"""Floor 4: what a stage minimises: a LossFn, and the `weigh` that gives its denominators before the first microbatch.

`jaxrec.training.gradients` has the contract of both.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float

from jaxrec.training.gradients import LossFn, Spanning


class Objective(NamedTuple):
    """What a stage minimises, and what its terms are divided by."""

    loss: LossFn | Spanning
    weigh: Callable[[Any], dict[str, Float[Array, ""]]]

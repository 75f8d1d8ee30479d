"""What noisy clipped gradients give away: (epsilon, delta) of a run, and the noise that it needs, by dp-accounting.

The mechanism is that of `gradients.clipped`: in each of `steps` steps every unit (an event, a person) takes part with
probability `rate`, its gradient is clipped, normal noise of `noise` x clip is added to the sum. Adding or removing one
unit changes what comes out by at most (epsilon, delta). Epsilons are of privacy loss distributions (Koskela et al.
2020), which are tight; settings that were chosen on the same data, and logged losses, are not counted in.
"""

import dataclasses
import functools
from typing import Any

from jaxrec.config import RunError

_LARGEST = 1e4  # noise, in clips


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much a run may tell of one unit. delta below one over the number of units."""

    epsilon: float
    delta: float = 1e-3

    def __post_init__(self) -> None:
        if not (self.epsilon > 0 and 0 < self.delta < 1):
            raise RunError(
                f"a budget has an epsilon above 0 and a delta between 0 and 1, not {self.epsilon} and {self.delta}"
            )


@functools.cache
def noise_for(budget: Budget, rate: float, steps: int) -> float:
    """The least noise, in clips, with which `steps` steps at this sampling rate stay within the budget.

    Raises RunError where dp-accounting is missing, and for a rate or steps that make no sense.
    """
    accounting = _accounting(rate, steps)
    found = accounting.calibrate_dp_mechanism(
        accounting.pld.PLDAccountant,
        lambda noise: _run(accounting, noise, rate, steps),
        budget.epsilon,
        budget.delta,
        bracket_interval=accounting.LowerEndpointAndGuess(0.0, 4.0),
    )
    if not found < _LARGEST:
        raise RunError(f"no noise is enough for an epsilon of {budget.epsilon} over {steps} steps")
    return float(found)


def spent(noise: float, delta: float, rate: float, steps: int) -> float:
    """The epsilon of a run.

    noise: in clips. delta: the probability with which more may be told. rate: with which a unit takes part in a step.
    steps: of the run.
    """
    accounting = _accounting(rate, steps)
    account = accounting.pld.PLDAccountant()
    account.compose(_run(accounting, noise, rate, steps))
    return float(account.get_epsilon(delta))


def _run(accounting: Any, noise: float, rate: float, steps: int) -> Any:
    event = accounting.GaussianDpEvent(noise)
    if rate < 1:
        event = accounting.PoissonSampledDpEvent(rate, event)
    return accounting.SelfComposedDpEvent(event, steps)


def _accounting(rate: float, steps: int) -> Any:
    if not 0 < rate <= 1 or steps < 1:
        raise RunError(
            f"units take part with a probability up to 1 in at least one step, not {rate} in {steps}"
        )
    try:
        import dp_accounting
        import dp_accounting.pld
    except ModuleNotFoundError as error:
        raise RunError(
            f"privacy is accounted by the package {error.name}: pip install --no-deps dp-accounting dm-tree mpmath"
        ) from None
    return dp_accounting

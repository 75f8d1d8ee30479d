"""How fast a person is onboarded once their examples are read: p by one pass, and p by gradient for many at once."""

import time

import jax
import numpy as np

from jaxrec.eval.personalize_rows import Case
from jaxrec.models.personal.judgement import frozen_of
from jaxrec.models.personal.profile import Gaussian
from jaxrec.recommenders.judgement_fit import JudgementFit


def onboarding_speed(
    trainer: JudgementFit, params: dict, case: Case, k: int, people: int = 256
) -> dict[str, float | int]:
    """encoder_ms_per_tenant (one person alone in the batch, median of 50) and gradient_tenants_per_s (256 at once)."""
    frozen = frozen_of(case.view, trainer.cfg.content)
    cards = (case.examples.item_US, case.examples.label_US, case.examples.first(k))
    many = tuple(np.resize(x, (people, *x.shape[1:])) for x in cards)
    one = tuple(x[:1] for x in many)
    start = trainer.infer(params, frozen, *many)
    prior = Gaussian(start, Gaussian.of(start).std_E)
    encoder = _median(lambda: trainer.infer(params, frozen, *one), 50)
    fit = _median(lambda: trainer.fit(params, frozen, start, prior, many), 5)
    return {"k": k, "encoder_ms_per_tenant": 1e3 * encoder, "gradient_tenants_per_s": people / fit}


def _median(call, times: int) -> float:
    jax.block_until_ready(call())  # compiles
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(time.perf_counter() - begun)
    return float(np.median(taken))

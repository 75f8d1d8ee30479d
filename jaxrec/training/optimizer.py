"""The optimiser: AdamW (or Lion, or SGD) with warm-up, a schedule, and weight decay that spares norms and biases."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jaxrec.mesh import path_of

# scale_NB, a LoRA's alpha / rank, is a constant of its layout
_NO_DECAY = r"(^|/)(bias|scale|scale_NB|gate|p)$|norm"


@dataclasses.dataclass(frozen=True)
class OptConfig:
    """Learning rate and what belongs to it. `clip` is the largest global gradient norm; 0 leaves it as it is."""

    kind: Literal["adamw", "lion", "sgd"] = "adamw"
    lr: float = 1e-3
    warmup: int = 0  # steps from 0 up to lr
    schedule: Literal["constant", "cosine", "linear", "stable"] = (
        "cosine"  # stable: flat, down in the last fifth
    )
    end: float = 0.0  # the last learning rate, as a part of lr
    weight_decay: float = 0.0
    no_decay: str = _NO_DECAY  # paths where this is found are not decayed
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    clip: float = 1.0


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optax transformation, the learning rate by step (for the log and for tables), and the clipping norm."""

    transform: optax.GradientTransformation
    rate: Callable[[Any], Any] = lambda step: jnp.float32(0)
    clip: float = 0.0


def rate(config: OptConfig, steps: int) -> Callable[[Any], Any]:
    """The learning rate as a function of the step, over a run of `steps` steps."""
    left = max(steps - config.warmup, 1)
    last = config.lr * config.end
    after = {
        "constant": lambda: optax.constant_schedule(config.lr),
        "cosine": lambda: optax.cosine_decay_schedule(config.lr, left, config.end),
        "linear": lambda: optax.linear_schedule(config.lr, last, left),
        "stable": lambda: optax.linear_schedule(
            config.lr, last, max(left // 5, 1), left - max(left // 5, 1)
        ),
    }[config.schedule]()
    if not config.warmup:
        return after
    # From lr / warmup rather than from 0: the first step should already learn something.
    up = optax.linear_schedule(config.lr / config.warmup, config.lr, config.warmup - 1)
    return optax.join_schedules([up, after], [config.warmup])


def make(config: OptConfig, steps: int) -> Optimizer:
    """The optimiser of a run of `steps` steps. Norms are clipped by the step, over weights and table rows alike."""
    schedule = rate(config, steps)
    decayed = lambda params: jax.tree_util.tree_map_with_path(
        lambda keys, _: not re.search(config.no_decay, path_of(keys)), params
    )
    decay = [optax.add_decayed_weights(config.weight_decay, decayed)] if config.weight_decay else []
    direction = {
        "adamw": lambda: optax.scale_by_adam(config.b1, config.b2, config.eps),
        "lion": lambda: optax.scale_by_lion(config.b1, config.b2),
        "sgd": lambda: optax.trace(config.b1) if config.b1 else optax.identity(),
    }[config.kind]()
    # Decay stands behind the direction and before the learning rate, which makes it decoupled (Loshchilov & Hutter
    # 2019). Before the moments it would be an L2 term, and Adam would divide it away.
    chain = optax.chain(direction, *decay, optax.scale_by_learning_rate(schedule))
    return Optimizer(chain, schedule, config.clip)

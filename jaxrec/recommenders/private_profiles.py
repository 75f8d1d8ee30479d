"""Floor 4: people's own p from their judgements, so that p tells next to nothing of any single one of them.

The unit is the event: one judgement more or less changes what somebody's p is likely to be by at most (epsilon, delta).
All people are fitted by one run of the training step on a table u [U, E], p = start + spread x u. A row of the batch is
one judgement, and its gradient touches its own person's row of u alone; so clipped row by row, with noise on the whole
table, each person's p is the Gaussian mechanism on that person's events, and nobody's budget is spent by anybody else.
"""

import dataclasses
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from jaxrec import mesh as meshes
from jaxrec.models.personal.judgement import Models
from jaxrec.objectives.judgements import own_profiles
from jaxrec.training import loop
from jaxrec.training import step as steps
from jaxrec.training.gradients import clipped
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig, make


@dataclasses.dataclass(frozen=True)
class PrivateProfileConfig:
    """Noisy steps towards somebody's p. Every event takes part in every step, so the sampling rate is 1."""

    steps: int = 4
    clip: float = 0.5  # the largest gradient of one judgement, in units of `spread`
    spread: float = 1.0  # how far people's p lie from the start; a setting, not measured on them
    opt: OptConfig = OptConfig(
        "sgd", lr=0.1, schedule="constant", weight_decay=0.0, b1=0.0, clip=0.0
    )


class PrivateProfiles:
    """Fits p of people at a time, with one program for each amount of noise."""

    def __init__(self, cfg: PrivateProfileConfig, models: Models):
        self.cfg, self.models = cfg, models
        self.mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
        self.optimizer = make(cfg.opt, cfg.steps)
        self._steps: dict[tuple, object] = {}

    def fit(
        self,
        params: PyTree,
        frozen: PyTree,
        start_E: Float[np.ndarray, " E"],
        given: tuple[np.ndarray, np.ndarray, np.ndarray],
        noise: float,
        seed: int,
    ) -> Float[np.ndarray, "U E"]:
        """p of each person.

        Args:
          params, frozen: the models' weights and what they read of items.
          start_E: where everybody begins: it may not have been made from these events.
          given: (items, labels, mask) [U, S], the events of each person.
          noise: its deviation in clips (`training.accounting.noise_for` at rate 1).
          seed: of the noise.
        """
        item_US, label_US, mask_US = (np.asarray(x) for x in given)
        people, each = mask_US.shape
        batch = {
            "person": np.repeat(np.arange(people, dtype=np.int32), each),
            "item": item_US.reshape(-1).astype(np.int32),
            "label": label_US.reshape(-1).astype(np.int32),
            "real": mask_US.reshape(-1).astype(np.float32),
        }
        start = {"u": jnp.zeros((people, len(start_E)), jnp.float32)}
        state = steps.init_state(self.mesh, start, self.optimizer, source=jnp.int32(0))
        key = (noise, people, each)
        if key not in self._steps:
            # The sum over a person's events, not their mean: its noise would otherwise depend on how many there are.
            how = clipped(self.cfg.clip, noise, expected=1, chunk=each)
            objective = own_profiles(self.models, self.cfg.spread)
            self._steps[key] = steps.make_step(*objective, self.optimizer, state, gradients=how)
        whole = {"weights": params, "items": frozen, "start": jnp.asarray(start_E)}
        with tempfile.TemporaryDirectory() as folder:
            fitted = loop.fit(
                self._steps[key], state, lambda step, params, state: (batch, state),
                config=LoopConfig(self.cfg.steps, seed, log_every=self.cfg.steps, progress=False),
                mesh=self.mesh, rows=len(batch["item"]), out=folder, frozen=whole, resolved=self.cfg,
                title="private profiles",
            )  # fmt: skip
        u_UE = np.asarray(jax.device_get(fitted.state.params["u"]))
        return np.asarray(start_E)[None] + self.cfg.spread * u_UE

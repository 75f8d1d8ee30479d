"""Floor 4: the personal model of judgements, trained on episodes: of a person k are shown, the rest are asked."""

import dataclasses
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxrec import mesh as meshes
from jaxrec.config import RunError
from jaxrec.data.judgement_folds import Cards
from jaxrec.models.personal.judgement import Models, PersonConfig
from jaxrec.models.personal.profile import ProfileFitConfig
from jaxrec.objectives.judgements import judgements
from jaxrec.training import loop
from jaxrec.training import step as steps
from jaxrec.training.gradients import clipped
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import make

_WORD = 1 << 64


@dataclasses.dataclass(frozen=True)
class PrivateFit:
    """Shared weights that tell next to nothing of any one person: `gradients.clipped`, the unit being the person.

    Each person takes part in a step with probability `rate`, by one episode. noise: in clips
    (`training.accounting.noise_for`); None: the same batches, with neither clipping nor noise.
    """

    rate: float = 0.5
    clip: float = 1.0
    noise: float | None = None
    chunk: int = 8  # people whose gradients exist at once


class JudgementFit:
    """Trains the personal model. One for all folds of a benchmark, so that each program is compiled once.

    labels: how many there are. fit: how p is fitted to a person's examples by gradient. private: how people are drawn
    and what is hidden of them; None: batches of `cfg.batch` people.
    """

    def __init__(
        self,
        cfg: PersonConfig,
        labels: int,
        fit: ProfileFitConfig,
        private: PrivateFit | None = None,
    ):
        self.cfg, self.fit_cfg, self.private = cfg, fit, private
        self.models = Models(cfg, labels, labels + cfg.content)
        # so small a model runs fastest on one device, whatever the machine has
        self.mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
        self.optimizer = make(cfg.opt, cfg.steps)
        self._step = None
        self.infer = jax.jit(self.models.infer)
        self.log_p = jax.jit(self.models.log_p)
        self.fit = jax.jit(lambda *given: self.models.fit(*given, fit))

    def train(
        self,
        frozen: PyTree,
        known: Cards,
        seed: int,
        out: str | Path | None = None,
        progress: bool = False,
    ) -> PyTree:
        """Weights after `steps` steps of episodes of the people in `known`.

        frozen: what is read of each item (`judgement.frozen_of`). known: the people's judgements, a row a person.
        seed: of the first weights and of the episodes. progress: a bar on stderr. out: log and checkpoints, from
        which a stopped run goes on; None: a temporary folder. Raises NonFinite.
        """
        if out is None:
            with tempfile.TemporaryDirectory() as folder:
                return self.train(frozen, known, seed, folder, progress)
        source, rows = Episodes(known, self.cfg.batch, self.cfg.most, seed), self.cfg.batch
        how = None
        if (private := self.private) is not None:
            rows = _room(len(known.person_U), private)
            source = PoissonEpisodes(known, private.rate, rows, self.cfg.most, seed)
            if private.noise is not None:
                # By all rows, real or not: how many people there are is not told either.
                expected = private.rate * len(known.person_U)
                how = clipped(private.clip, private.noise, expected, private.chunk)
        params = self.models.init(jax.random.key(seed))
        state = steps.init_state(self.mesh, params, self.optimizer, source=source.init())
        if self._step is None:
            self._step = steps.make_step(
                *judgements(self.models), self.optimizer, state, gradients=how
            )
        run = LoopConfig(
            self.cfg.steps, seed + 1, log_every=100, save_every=1000, progress=progress
        )
        fitted = loop.fit(
            self._step, state, source, config=run, mesh=self.mesh, rows=rows, out=out,
            frozen=frozen, resolved=self.cfg, title="judgements",
        )  # fmt: skip
        return jax.tree.map(jnp.asarray, jax.device_get(fitted.state.params))


class Episodes:
    """A source of episodes. Its state is that of numpy's generator, so a resumed run draws what it would have.

    known: the people's judgements, a row a person. batch: people an episode. most: judgements shown of one, at
    most. seed: of the draws.
    """

    def __init__(self, known: Cards, batch: int, most: int, seed: int):
        self.known, self.batch, self.most, self.seed = known, batch, most, seed

    def init(self) -> PyTree:
        """The state before the first batch."""
        return _packed(np.random.default_rng(self.seed))

    def __call__(self, step: int, params: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        """The next batch, and the state after it."""
        rng = _unpacked(state)
        return episodes(self.known, self.batch, self.most, rng), _packed(rng)


def episodes(known: Cards, batch: int, most: int, rng: np.random.Generator) -> PyTree:
    """Random people, each with k judgements shown (k log-uniform from 0 to `most`) and the others asked.

    known: the judgements, a row a person. batch: how many people are drawn, with replacement. rng: what draws.
    Gives `item`, `label`, `shown` and `asked`, each of `batch` rows.
    """
    return _shown(known, rng.choice(np.flatnonzero(known.person_U >= 0), batch), most, rng)


class PoissonEpisodes(Episodes):
    """Episodes of people each of whom takes part with probability `rate`; the rest of `rows` rows is padding.

    known: the people's judgements, a row a person. rate: the probability. rows: of a batch. most: judgements shown of
    one, at most. seed: of the draws. Raises RunError where more people are drawn than there are rows.
    """

    def __init__(self, known: Cards, rate: float, rows: int, most: int, seed: int):
        super().__init__(known, rows, most, seed)
        self.rate = rate

    def __call__(self, step: int, params: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        """The next batch, and the state after it."""
        rng = _unpacked(state)
        real = np.flatnonzero(self.known.person_U >= 0)
        drawn = real[rng.random(len(real)) < self.rate]
        if len(drawn) > self.batch:
            raise RunError(
                f"{len(drawn)} people were drawn for {self.batch} rows: use another seed"
            )
        row = np.zeros(self.batch, int)
        row[: len(drawn)] = drawn
        batch = _shown(self.known, row, self.most, rng)
        padding = np.arange(self.batch) >= len(drawn)
        for name in ("shown", "asked"):
            batch[name] = np.where(padding[:, None], 0, batch[name]).astype(batch[name].dtype)
        return batch, _packed(rng)


def _room(people: int, private: PrivateFit) -> int:
    """Rows for the people of nearly every draw (six deviations), a multiple of the chunk."""
    mean = private.rate * people
    most = min(people, mean + 6 * (mean * (1 - private.rate)) ** 0.5)
    return -int(-most // private.chunk) * private.chunk


def _shown(known: Cards, row: np.ndarray, most: int, rng: np.random.Generator) -> PyTree:
    """The judgements of these people, some shown and the others asked."""
    batch, mask = len(row), known.mask_US[row]
    # The rank of random numbers is a random order of each person's judgements; those that are absent (2.0) come
    # last.
    place = np.argsort(np.argsort(np.where(mask, rng.random(mask.shape), 2.0), 1), 1)
    # Log-uniform, so that somebody of whom hardly anything is known is met as often as somebody of whom much is.
    k = np.exp(rng.uniform(np.log(0.5), np.log(most + 1), (batch, 1))).astype(int)
    shown = mask & (place < k)
    asked = (mask & ~shown).astype(np.float32)
    label = known.label_US[row].astype(np.int32)
    return {
        "item": known.item_US[row].astype(np.int32),
        "label": label,
        "shown": shown,
        "asked": asked,
    }


def _packed(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """PCG64's two numbers of 128 bits, cut in two each, and the half of one that was drawn and not used."""
    told = rng.bit_generator.state
    own = told["state"]
    words = [*divmod(own["state"], _WORD), *divmod(own["inc"], _WORD)]
    words += [told["has_uint32"], told["uinteger"]]
    # as 32 bits: jax keeps no 64-bit numbers
    halves = [half for word in words for half in divmod(int(word), 1 << 32)]
    return {"pcg64": np.array(halves, np.uint32)}


def _unpacked(state: dict[str, np.ndarray]) -> np.random.Generator:
    halves = [int(half) for half in np.asarray(state["pcg64"])]
    words = [(high << 32) + low for high, low in zip(halves[::2], halves[1::2], strict=True)]
    generator = np.random.PCG64()
    generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": words[0] * _WORD + words[1], "inc": words[2] * _WORD + words[3]},
        "has_uint32": words[4],
        "uinteger": words[5],
    }
    return np.random.Generator(generator)

"""Floor 4: what came before decides what comes next: SASRec, HSTU and GRU, trained on packed histories.

Validation asks every person by full ranking after each epoch; the epoch with the best `loop.monitor` is kept, and
`loop.patience` epochs without a better one end the run. A run that was stopped goes on from its checkpoint in OUT.
"""

import dataclasses
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxrec import checkpoint, config, mesh, ranking
from jaxrec.data.histories import Histories, Holdout
from jaxrec.data.history_rows import (
    DrawnItems,
    HistoryRows,
    Negatives,
    PackedHistories,
    pack_whole,
)
from jaxrec.data.source import ArraySource, Prefetch
from jaxrec.data.store.reading import StoredSource
from jaxrec.models.items.gru import GRU, GRUConfig
from jaxrec.models.items.hstu import HSTU, HSTUConfig
from jaxrec.models.items.sequential import SASRec, SASRecConfig
from jaxrec.objectives.sequential import SequentialLoss, sequential
from jaxrec.recommenders import vector_ranks
from jaxrec.recommenders.recommender import (
    NotFitted,
    NothingToLearn,
    Recommender,
    blocks,
    must_learn,
)
from jaxrec.training import loop, optimizer, step
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

MODELS = {"sasrec": (SASRecConfig, SASRec), "hstu": (HSTUConfig, HSTU), "gru": (GRUConfig, GRU)}

_PEOPLE = 1 << 16  # whose histories are in memory at once when people are asked about
_ASKED = 4096  # positions that are encoded at once when people are asked about


@dataclasses.dataclass(frozen=True)
class SequentialConfig:
    """One sequence model and how it is trained.

    A batch is `positions` positions in rows of `width`. `loop.steps` and `loop.eval_every` follow from `epochs` and
    `valid_every`; `loop.monitor` is a measure of the validation people, such as N@10.
    """

    model: SASRecConfig | HSTUConfig | GRUConfig = SASRecConfig()
    loss: SequentialLoss = SequentialLoss()
    width: int = 64  # at least the model's max_length
    positions: int = 1536  # a batch; 256 people of Amazon's 5-core data have so many
    windows: bool = False  # long histories are cut into windows; else their newest part counts
    epochs: int = 200
    valid_every: int = 1  # epochs
    mask_seen: bool = True  # in validation
    opt: OptConfig = OptConfig(lr=1e-3, schedule="constant", b2=0.999, clip=0.0)
    loop: LoopConfig = LoopConfig(
        monitor="N@10", mode="max", patience=10, log_every=100, save_every=1000
    )


class Sequential(Recommender):
    """A sequence model that is fitted to histories and recommends what comes next."""

    kind = "sequential"

    def __init__(self, config: SequentialConfig = SequentialConfig()):
        self.config = config
        self.params: Any = None
        self.facts: dict[str, Any] = {}

    def fit(
        self, train: Histories, valid: Holdout | None = None, out: str | Path | None = None
    ) -> "Sequential":
        """Trains until validation gets no better (without `valid`: all epochs) and keeps the best epoch.

        `facts` afterwards: epoch (the best), epochs, the best value, seconds of an epoch and of an evaluation.
        """
        if out is None:
            with tempfile.TemporaryDirectory() as folder:
                return self.fit(train, valid, folder)
        must_learn(train, valid)
        if train.length_B.max() < 2:
            raise NothingToLearn("nobody has two events: there is no next item to learn")
        cfg, devices = self.config, mesh.make()
        self._build(train.n_items)
        rows = PackedHistories(
            train, cfg.width, cfg.model.max_length,
            windows=cfg.windows, count=cfg.model.count, seed=cfg.loop.seed,
        )  # fmt: skip
        groups = devices.shape["data"] * devices.shape["fsdp"]
        # A multiple of the groups of devices, over which a batch has to divide.
        rows_a_batch = max(round(cfg.positions / cfg.width / groups), 1) * groups
        source, frozen = _source(cfg, rows, rows_a_batch, train, devices)
        first = jax.tree.map(jnp.asarray, rows[np.arange(1)])
        init = lambda key: self.model.init(key, first)["params"]
        params = mesh.sharded_init(devices, init, jax.random.key(cfg.loop.seed))
        per_epoch = -(-len(rows) // rows_a_batch)
        run = dataclasses.replace(
            cfg.loop, steps=cfg.epochs * per_epoch, eval_every=cfg.valid_every * per_epoch
        )
        if valid is None:
            run = dataclasses.replace(run, monitor="train/loss", mode="min", patience=0)
        optim = optimizer.make(cfg.opt, run.steps)
        state = step.init_state(devices, params, optim, source=source.init())
        objective = sequential(self.model, cfg.loss)
        one = step.make_step(*objective, optim, state)
        clock: list[tuple[int, float, float]] = []  # of each evaluation: step, begin, end

        def evaluate(params: Any, done: int) -> dict[str, float]:
            began = time.perf_counter()
            self.params = params
            found = ranking.measures(self.ranks(valid, cfg.mask_seen), (5, 10, 20))
            clock.append((done, began, time.perf_counter()))
            return found | {"epoch": done / per_epoch}

        fitted = loop.fit(
            one, state, source, config=run, mesh=devices, rows=rows_a_batch, out=out,
            frozen=frozen, evaluate=evaluate if valid is not None else None, resolved=cfg,
            title="sequential",
        )  # fmt: skip
        kept = valid is not None and fitted.best is not None
        self.params = checkpoint.load_params(Path(out) / "best") if kept else fitted.state.params
        steps = int(fitted.state.step)
        self.facts = {
            "epoch": round((fitted.best if kept else steps) / per_epoch),
            "epochs": round(steps / per_epoch),
            "monitor": run.monitor,
            "value": fitted.value,
            **_times(clock, per_epoch),
            "items": train.n_items,
        }
        return self

    def score(self, histories: Histories) -> Float[np.ndarray, "B I"]:
        """z . v of every item."""
        return self.encode(histories) @ self._vectors().T

    def encode(self, histories: Histories) -> Float[np.ndarray, "B D"]:
        """z after the newest item of each row; zeros for an empty one."""
        self._fitted()
        parts = [self._encoded(part) for part in blocks(histories, _PEOPLE)]
        nobody = np.zeros((0, self._vectors().shape[1]), np.float32)
        return np.concatenate([nobody, *parts]) if len(parts) != 1 else parts[0]

    def _encoded(self, histories: Histories) -> Float[np.ndarray, "B D"]:
        cfg = self.config
        rows, last_B = pack_whole(histories, cfg.width, cfg.model.max_length, count=cfg.model.count)
        # One request costs one row: sizes are powers of two, so few programs serve all.
        size = min(max(_ASKED // cfg.width, 1), 1 << max(len(rows.items_BL) - 1, 0).bit_length())
        z_BD = np.zeros((len(histories), self._vectors().shape[1]), np.float32)
        for at in range(0, len(rows.items_BL), size):
            part = _part(rows, at, size)
            with mesh.within(mesh.of(self.params)):
                z_XD = np.asarray(self._encode(self.params, part)).reshape(-1, z_BD.shape[1])
            here = (last_B >= at * cfg.width) & (last_B < (at + size) * cfg.width)
            z_BD[here] = z_XD[last_B[here] - at * cfg.width]
        return z_BD

    def ranks(self, holdout: Holdout, mask_seen: bool = True) -> Int[np.ndarray, " B"]:
        """Where each target stands among all items, or among those that its row does not hold."""
        z_BD = self.encode(holdout.histories)
        return vector_ranks.ranks(z_BD, self._vectors(), holdout, mask_seen)

    def item_vectors(self) -> Float[np.ndarray, "I D"]:
        """The vectors that z is multiplied with."""
        return self._vectors()

    def save(self, folder: str | Path) -> None:
        """Weights, and the configuration in facts.json."""
        self._fitted()
        name = next(k for k, (kind, _) in MODELS.items() if type(self.config.model) is kind)
        facts = {
            "kind": self.kind,
            "model": name,
            "config": config.to_dict(self.config),
            "fit": self.facts,
        }
        checkpoint.save_params(folder, self.params, facts)

    @classmethod
    def load(cls, folder: str | Path) -> "Sequential":
        """The recommender that `save` wrote. Raises CheckpointError where the folder is not whole."""
        facts = checkpoint.load_facts(folder)
        if facts.get("kind") != cls.kind:
            raise checkpoint.CheckpointError(f"{folder} holds no sequence model")
        told = dict(facts["config"])
        model = config.from_dict(MODELS[facts["model"]][0], told.pop("model"))
        cfg = dataclasses.replace(config.from_dict(SequentialConfig, told), model=model)
        found = cls(cfg)
        found._build(facts["fit"]["items"])
        found.params, found.facts = checkpoint.load_params(folder), facts["fit"]
        return found

    def _build(self, items: int) -> None:
        kinds = {kind: module for kind, module in MODELS.values()}
        cfg = dataclasses.replace(self.config.model, items=items)
        self.model = kinds[type(cfg)](cfg)
        self._encode = jax.jit(lambda params, rows: self.model.apply({"params": params}, rows))

    def _vectors(self) -> np.ndarray:
        self._fitted()
        params = jax.tree.map(jnp.asarray, self.params)  # loaded ones are numpy arrays
        return np.asarray(self.model.apply({"params": params}, method="item_vectors"))

    def _fitted(self) -> None:
        if self.params is None:
            raise NotFitted("the sequence model knows nothing yet: fit it, or load one")


def _source(
    cfg: SequentialConfig, rows: PackedHistories, count: int, train: Histories, devices: Any
) -> tuple[Any, Any]:
    """Batches of `count` rows with the negatives that the loss asks for, and what the loss keeps frozen.

    Histories in memory are packed once, those in a store batch by batch.
    """
    share, how = mesh.process_rows(devices, count), cfg.loss
    if isinstance(train.item_T, np.ndarray):
        source = ArraySource(rows[np.arange(len(rows))], count, seed=cfg.loop.seed, share=share)
    else:
        source = StoredSource(rows, count, seed=cfg.loop.seed, share=share)
    if how.kind == "full":
        return Prefetch(source), None
    if how.kind == "sampled":
        # Every leaf of a batch leads with its rows, so each row brings its part of the draws that all of them
        # share.
        drawn = DrawnItems(source, train, -(-how.negatives // count), how.popularity, share)
        return Prefetch(drawn), {"log_q": jnp.asarray(drawn.log_q_I)}
    return Prefetch(Negatives(source, train, how.negatives, share)), None


def _times(clock: list[tuple[int, float, float]], per_epoch: int) -> dict[str, float]:
    """Median seconds of an epoch between two evaluations, and of an evaluation (compilation falls out)."""
    if len(clock) < 2:
        return {}
    epochs = [
        (began - ended) * per_epoch / (done - before)
        for (before, _, ended), (done, began, _) in itertools.pairwise(clock)
    ]
    asking = [ended - began for _, began, ended in clock]
    return {"epoch_s": float(np.median(epochs)), "valid_s": float(np.median(asking))}


def _part(rows: HistoryRows, at: int, size: int) -> HistoryRows:
    """`size` rows from `at` on; empty ones where there are no more."""

    def cut(leaf: np.ndarray) -> np.ndarray:
        leaf = leaf[at : at + size]
        return np.pad(leaf, ((0, size - len(leaf)),) + ((0, 0),) * (leaf.ndim - 1))

    return jax.tree.map(cut, rows)

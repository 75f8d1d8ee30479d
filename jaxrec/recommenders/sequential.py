"""Floor 4: what came before decides what comes next: SASRec, HSTU and GRU, trained on packed histories.

Validation asks every person by full ranking after each epoch; the epoch with the best `loop.monitor` is kept, and
`loop.patience` epochs without a better one end the run. A run that was stopped goes on from its checkpoint in OUT.
"""

import dataclasses
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
from jaxrec.data.history_rows import DrawnItems, HistoryRows, Negatives, pack, pack_whole
from jaxrec.data.source import ArraySource, Prefetch
from jaxrec.models.gru import GRU, GRUConfig
from jaxrec.models.hstu import HSTU, HSTUConfig
from jaxrec.models.sequential import SASRec, SASRecConfig
from jaxrec.objectives.sequential import SequentialLoss, sequential
from jaxrec.recommenders import vector_ranks
from jaxrec.recommenders.recommender import NotFitted, Recommender
from jaxrec.training import loop, optimizer, step
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

MODELS = {"sasrec": (SASRecConfig, SASRec), "hstu": (HSTUConfig, HSTU), "gru": (GRUConfig, GRU)}

_ASKED = 4096  # positions that are encoded at once when people are asked about


@dataclasses.dataclass(frozen=True)
class SequentialConfig:
    """One sequence model and how it is trained.

    A batch is `positions` positions in rows of `width`. `loop.steps` and `loop.eval_every` follow from `epochs`, and
    `loop.monitor` is a measure of the validation people, such as N@10.
    """

    model: SASRecConfig | HSTUConfig | GRUConfig = SASRecConfig()
    loss: SequentialLoss = SequentialLoss()
    width: int = 64  # at least the model's max_length
    positions: int = 1536  # a batch; 256 people of Amazon's 5-core data have so many
    windows: bool = False  # long histories are cut into windows; else their newest part counts
    epochs: int = 200
    mask_seen: bool = True  # in validation
    opt: OptConfig = OptConfig(lr=1e-3, schedule="constant", b2=0.999, clip=0.0)
    loop: LoopConfig = LoopConfig(monitor="N@10", mode="max", patience=10, log_every=100)


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
        cfg, devices = self.config, mesh.make()
        self._build(train.n_items)
        rows_a_batch = max(cfg.positions // cfg.width, 1)
        rows = pack(
            train, cfg.width, cfg.model.max_length,
            windows=cfg.windows, count=cfg.model.count, seed=cfg.loop.seed,
        )  # fmt: skip
        source = ArraySource(rows, rows_a_batch, seed=cfg.loop.seed)
        frozen, how = None, cfg.loss
        if how.kind == "sampled":
            source = DrawnItems(source, train, -(-how.negatives // rows_a_batch), how.popularity)
            frozen = {"log_q": source.log_q_I}
        elif how.kind != "full":
            source = Negatives(source, train, how.negatives)
        source = Prefetch(source)
        first = jax.tree.map(lambda leaf: jnp.asarray(leaf[:1]), rows)
        init = lambda key: self.model.init(key, first)["params"]
        params = mesh.sharded_init(devices, init, jax.random.key(cfg.loop.seed))
        per_epoch = -(-len(rows.items_BL) // rows_a_batch)
        run = dataclasses.replace(cfg.loop, steps=cfg.epochs * per_epoch, eval_every=per_epoch)
        if valid is None:
            run = dataclasses.replace(run, monitor="train/loss", mode="min", patience=0)
        optim = optimizer.make(cfg.opt, run.steps)
        state = step.init_state(devices, params, optim, source=source.init())
        objective = sequential(self.model, cfg.loss)
        one = step.make_step(*objective, optim, state)
        began, asked = time.perf_counter(), [0.0, 0]

        def evaluate(params: Any, done: int) -> dict[str, float]:
            at = time.perf_counter()
            self.params = params
            found = ranking.measures(self.ranks(valid, cfg.mask_seen), (5, 10, 20))
            asked[0], asked[1] = asked[0] + time.perf_counter() - at, asked[1] + 1
            return found | {"epoch": done / per_epoch}

        fitted = loop.fit(
            one, state, source, config=run, mesh=devices, rows=rows_a_batch, out=out,
            frozen=frozen, evaluate=evaluate if valid is not None else None, resolved=cfg,
            title="sequential",
        )  # fmt: skip
        spent = time.perf_counter() - began
        kept = valid is not None and fitted.best is not None
        self.params = checkpoint.load_params(Path(out) / "best") if kept else fitted.state.params
        steps = int(fitted.state.step)
        self.facts = {
            "epoch": (fitted.best if kept else steps) / per_epoch,
            "epochs": steps / per_epoch,
            "monitor": run.monitor,
            "value": fitted.value,
            "epoch_s": (spent - asked[0]) * per_epoch / max(steps, 1),
            "valid_s": asked[0] / max(asked[1], 1),
            "items": train.n_items,
        }
        return self

    def score(self, histories: Histories) -> Float[np.ndarray, "B I"]:
        """z . v of every item."""
        return self.encode(histories) @ self._vectors().T

    def encode(self, histories: Histories) -> Float[np.ndarray, "B D"]:
        """z after the newest item of each row; zeros for an empty one."""
        self._fitted()
        cfg = self.config
        rows, last_B = pack_whole(histories, cfg.width, cfg.model.max_length, count=cfg.model.count)
        size = max(_ASKED // cfg.width, 1)
        z_BD = np.zeros((len(histories), self._vectors().shape[1]), np.float32)
        for at in range(0, len(rows.items_BL), size):
            part = _part(rows, at, size)
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
        return np.asarray(self.model.apply({"params": self.params}, method="item_vectors"))

    def _fitted(self) -> None:
        if self.params is None:
            raise NotFitted("the sequence model knows nothing yet: fit it, or load one")


def _part(rows: HistoryRows, at: int, size: int) -> HistoryRows:
    """`size` rows from `at` on; empty ones where there are no more."""

    def cut(leaf: np.ndarray) -> np.ndarray:
        leaf = leaf[at : at + size]
        return np.pad(leaf, ((0, size - len(leaf)),) + ((0, 0),) * (leaf.ndim - 1))

    return jax.tree.map(cut, rows)

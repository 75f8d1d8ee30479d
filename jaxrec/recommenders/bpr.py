"""Floor 4: BPR-MF (Rendle 2009): one vector a person, one an item, learned from what was taken and what was not.

Somebody without a row of their own (`user_B` -1, or nobody the training saw) is folded in: the linear map that best
takes known people's mean item vector to their own vector makes theirs from the items of the history.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from jaxrec import checkpoint, config, mesh, ranking
from jaxrec.data.histories import Histories, Holdout
from jaxrec.data.history_rows import HistoryRows, Negatives
from jaxrec.data.source import ArraySource, Prefetch
from jaxrec.mesh import MeshConfig
from jaxrec.models.items import bpr as model
from jaxrec.objectives.bpr import bpr, bpr_tables
from jaxrec.recommenders import vector_ranks
from jaxrec.recommenders.recommender import NotFitted, Recommender, must_learn
from jaxrec.training import loop, optimizer, step
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

RIDGE = 1e-3  # of the fold-in's map, as a part of the mean squared item vector


@dataclasses.dataclass(frozen=True)
class BPRConfig:
    """The model and its training. `loop.steps` and `loop.eval_every` follow from the epochs."""

    width: int = 64
    std: float = 0.1  # of the first tables
    negatives: int = 1  # items against each that was taken
    decay: float = 0.01
    rows: int = 512  # pairs an update
    updates: int = 16  # in one call of the devices
    epochs: int = 200
    evaluate_every: int = 2  # epochs
    mask_seen: bool = True  # in validation
    opt: OptConfig = OptConfig(lr=1e-3, schedule="constant", b2=0.999, clip=0.0)
    loop: LoopConfig = LoopConfig(monitor="N@10", mode="max", patience=5, log_every=100)
    mesh: MeshConfig = MeshConfig(data=1, fsdp=-1)  # fsdp: tables are cut by row over the devices


class BPR(Recommender):
    """Scores items by a person's vector. Order within a history is not looked at."""

    kind = "bpr"

    def __init__(self, config: BPRConfig = BPRConfig()):
        self.config = config
        self.user_UE: np.ndarray | None = None
        self.item_IW = np.zeros((0, 1), np.float32)
        self.fold_WE = np.zeros((1, 0), np.float32)
        self.known_U = np.zeros(0, bool)
        self.facts: dict[str, Any] = {}

    def fit(
        self, train: Histories, valid: Holdout | None = None, out: str | Path | None = None
    ) -> "BPR":
        """Trains until validation gets no better (without `valid`: all epochs) and keeps the best evaluation's tables.

        `facts` afterwards: epoch (the best), epochs, the best value. Raises NothingToLearn without any event.
        """
        if out is None:
            with tempfile.TemporaryDirectory() as folder:
                return self.fit(train, valid, folder)
        must_learn(train, valid)
        cfg, devices = self.config, mesh.make(self.config.mesh)
        rows = cfg.rows * cfg.updates
        calls = max(1, round(len(train.item_T) / rows))  # an epoch
        share = mesh.process_rows(devices, rows)
        source = ArraySource(_pairs(train), rows, seed=cfg.loop.seed, share=share)
        source = Prefetch(Negatives(source, train, cfg.negatives, share))
        begin = lambda key: model.init(key, len(train), train.n_items, cfg.width, cfg.std)
        params = mesh.sharded_init(devices, begin, jax.random.key(cfg.loop.seed))
        run = dataclasses.replace(
            cfg.loop, steps=cfg.epochs * calls, eval_every=cfg.evaluate_every * calls
        )
        if valid is None:
            run = dataclasses.replace(run, monitor="train/loss", mode="min", patience=0)
        optim = optimizer.make(cfg.opt, run.steps * cfg.updates)
        tables = bpr_tables()
        state = step.init_state(devices, params, optim, source=source.init(), tables=tables)
        one = step.make_step(*bpr(cfg.decay), optim, state, tables=tables, updates=cfg.updates)

        def evaluate(params: Any, done: int) -> dict[str, float]:
            self._take(params, train)
            z_BW = self._people(valid.histories)
            rank_B = vector_ranks.ranks(z_BW, self.item_IW, valid, cfg.mask_seen)
            return ranking.measures(rank_B) | {"epoch": done / calls}

        fitted = loop.fit(
            one, state, source, config=run, mesh=devices, rows=rows, out=out,
            evaluate=evaluate if valid is not None else None, resolved=cfg, title="bpr",
        )  # fmt: skip
        kept = valid is not None and fitted.best is not None
        params = checkpoint.load_params(Path(out) / "best") if kept else fitted.state.params
        self._take(params, train)
        steps = int(fitted.state.step)
        self.facts = {
            "epoch": (fitted.best if kept else steps) / calls,
            "epochs": steps / calls,
            "monitor": run.monitor,
            "value": fitted.value,
        }
        return self

    def score(self, histories: Histories) -> Float[np.ndarray, "B I"]:
        """Inner product with the row's person, and the items' biases."""
        return self._people(histories) @ self.item_IW.T

    def item_vectors(self) -> Float[np.ndarray, "I E"]:
        """The items' vectors, without their biases."""
        self._fitted()
        return self.item_IW[:, :-1]

    def user_vectors(self) -> Float[np.ndarray, "U E"]:
        """Every known person's vector; zeros where the training saw no event of theirs."""
        return self._fitted()

    def save(self, folder: str | Path) -> None:
        """The tables, and the configuration in facts.json."""
        arrays = {"users": self._fitted(), "items": self.item_IW}
        arrays |= {"fold": self.fold_WE, "known": self.known_U}
        facts = {"kind": self.kind, "config": config.to_dict(self.config), "fit": self.facts}
        checkpoint.save_params(folder, arrays, facts)

    @classmethod
    def load(cls, folder: str | Path) -> "BPR":
        """What `save` wrote. Raises CheckpointError where the folder is not whole."""
        facts = checkpoint.load_facts(folder)
        found = cls(config.from_dict(BPRConfig, facts["config"]))
        saved = checkpoint.load_params(folder)
        found.user_UE, found.item_IW = saved["users"], saved["items"]
        found.fold_WE, found.known_U = saved["fold"], saved["known"]
        found.facts = facts["fit"]
        return found

    def _take(self, params: Any, train: Histories) -> None:
        """Keeps the tables as numpy, and fits the map by which strangers are folded in."""
        row_BE, rows = np.asarray(params["users"]["table"]), train.length_B > 0
        self.item_IW = np.asarray(params["items"]["table"])
        named = rows & (train.user_B >= 0)
        self.known_U = np.zeros(train.n_users, bool)
        self.known_U[train.user_B[named]] = True
        self.user_UE = np.zeros((train.n_users, row_BE.shape[1]), np.float32)
        self.user_UE[train.user_B[named]] = row_BE[named]
        x_BW, y_BE = self._mean_items(train)[rows], row_BE[rows]
        # Relative to the vectors' own mean square, so that one constant serves every width and scale.
        weight = RIDGE * np.square(x_BW[:, :-1]).mean() * len(x_BW)
        gram = x_BW.T @ x_BW + weight * np.eye(x_BW.shape[1])
        self.fold_WE = np.linalg.solve(gram, x_BW.T @ y_BE).astype(np.float32)

    def _people(self, histories: Histories) -> Float[np.ndarray, "B W"]:
        """Each row's person, and a one for the bias."""
        user_UE = self._fitted()
        inside_B = (histories.user_B >= 0) & (histories.user_B < len(user_UE))
        user_B = np.where(inside_B, histories.user_B, 0)
        known_B = inside_B & self.known_U[user_B]
        person_BE = user_UE[user_B]
        if not known_B.all():
            strangers = np.flatnonzero(~known_B)
            person_BE[strangers] = self._mean_items(histories.take(strangers)) @ self.fold_WE
        return np.concatenate([person_BE, np.ones((len(person_BE), 1), np.float32)], 1)

    def _mean_items(self, histories: Histories) -> Float[np.ndarray, "B W"]:
        """The mean vector of each row's items (zeros of none), and a one."""
        total_BE = np.zeros((len(histories), self.item_IW.shape[1] - 1), np.float32)
        np.add.at(total_BE, histories.row_T, self.item_IW[histories.item_T, :-1])
        mean_BE = total_BE / np.maximum(histories.length_B, 1)[:, None].astype(np.float32)
        return np.concatenate([mean_BE, np.ones((len(mean_BE), 1), np.float32)], 1)

    def _fitted(self) -> Float[np.ndarray, "U E"]:
        if self.user_UE is None:
            raise NotFitted("BPR has no vectors yet: fit it, or load one")
        return self.user_UE


def _pairs(train: Histories) -> HistoryRows:
    """Each event as a history of one: the item as target, whose it is, and nothing before it."""
    column = lambda x: x.astype(np.int32)[:, None]
    nothing = np.full((len(train.item_T), 1), -1, np.int32)
    return HistoryRows(
        items_BL=nothing, targets_BL=column(train.item_T), segments_BL=nothing,
        positions_BL=nothing, who_BL=column(train.row_T),
    )  # fmt: skip

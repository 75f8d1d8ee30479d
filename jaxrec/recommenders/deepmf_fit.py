"""Floor 4: DeepMF's training: ratings out of histories, a part of them held back to stop by, the one loop.

With `valid_share` the loop keeps the parameters of the epoch with the lowest RMSE on the ratings held back. With
`refit` the model is then trained once more from its beginning, on all ratings, for as many epochs on the same schedule.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import checkpoint, mesh, objectives
from jaxrec.data.histories import Histories
from jaxrec.data.source import ArraySource, Prefetch
from jaxrec.mesh import MeshConfig
from jaxrec.models.items import deepmf as model
from jaxrec.models.items.deepmf import DeepMFError, DeepMFShape, Ratings, SideFacts
from jaxrec.objectives import RatingDecay
from jaxrec.recommenders.rating_context import RatingContext
from jaxrec.recommenders.side_features import SideFeatures
from jaxrec.training import loop, optimizer, step
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

EVALUATED = 1 << 14  # ratings predicted at once


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """The defaults are the specification's."""

    batch: int = 1024
    epochs: int = 5
    opt: OptConfig = OptConfig(lr=1e-3, schedule="constant", b2=0.999, clip=0.0)
    valid_share: float = 0.2  # of the ratings, held back at random; 0: none
    patience: int = 0  # epochs without a better RMSE that end the run; 0: all epochs are made
    refit: bool = False  # then learn from all ratings, for as long as was best
    updates: int = 8  # of the batch's size in one call of the devices
    by_row: bool = True  # the two tables by row; False: dense Adam
    seed: int = 0
    mesh: MeshConfig = MeshConfig(data=1, fsdp=-1)  # fsdp: tables are cut by row over the devices
    devices: int = 0  # the first so many devices alone; 0: all
    progress: bool = False


@dataclasses.dataclass(frozen=True)
class RatingRows:
    """Ratings to learn from, one a row; people and items by number."""

    user_T: np.ndarray
    item_T: np.ndarray
    rating_T: np.ndarray
    time_T: np.ndarray | None
    n_users: int
    n_items: int

    def __len__(self) -> int:
        return len(self.rating_T)

    def take(self, rows: np.ndarray) -> "RatingRows":
        """Some of the ratings, by index."""
        part = {name: getattr(self, name)[rows] for name in ("user_T", "item_T", "rating_T")}
        return dataclasses.replace(
            self, **part, time_T=None if self.time_T is None else self.time_T[rows]
        )

    def ratings(self, context: RatingContext | None, own: bool = False) -> Ratings:
        """As batches hold them. own: the context was made of these very ratings."""
        told = None
        if context is not None:
            residual = context.residual_T if own else None
            told = context(self.user_T, self.item_T, self.time_T, residual)
        return Ratings(self.user_T, self.item_T, self.rating_T, told)


class Fit:
    """fit(train, out) -> (params, ratings, facts).

    shape: the sizes of the model. decay: the L2 penalties. cfg: settings of the fit. features:
    values of people and items beside the ratings, None: there are none. Raises DeepMFError for settings that
    contradict each other.
    """

    def __init__(
        self,
        shape: DeepMFShape,
        decay: RatingDecay,
        cfg: FitConfig,
        features: SideFeatures | None = None,
    ):
        if not 0 <= cfg.valid_share < 1 or cfg.epochs < 1 or cfg.updates < 1:
            raise DeepMFError(
                "DeepMF needs 0 <= valid_share < 1, and at least one epoch and update"
            )
        if cfg.refit and not cfg.valid_share:
            raise DeepMFError("fit.refit asks for ratings to stop by: set fit.valid_share")
        self.shape, self.decay, self.cfg, self.features = shape, decay, cfg, features
        self.mesh = mesh.make(cfg.mesh, jax.devices()[: cfg.devices or None])

    def __call__(self, train: Histories, out: Path) -> tuple[Any, RatingRows, dict[str, Any]]:
        """(parameters on one device, the ratings learned from, facts: epoch, noise, the RMSE of those held back)."""
        whole = ratings_of(train, self.shape)
        order = np.random.default_rng(self.cfg.seed).permutation(len(whole))
        held = round(self.cfg.valid_share * len(order))
        rest, valid = whole.take(np.sort(order[held:])), whole.take(np.sort(order[:held]))
        if not len(rest):
            raise DeepMFError("no rating is left to learn from: lower fit.valid_share")
        params, facts = self.run(rest, valid if held else None, out, self.cfg.epochs)
        if self.cfg.refit:
            # All ratings now, for as many epochs as were best before: no rating is left to stop by.
            params, again = self.run(whole, None, out / "refit", facts["epoch"])
            facts, rest = facts | {"noise": again["noise"], "refitted": True}, whole
        return params, rest, facts

    def run(
        self, train: RatingRows, valid: RatingRows | None, out: Path, epochs: int
    ) -> tuple[Any, dict[str, Any]]:
        """One training, of `epochs` epochs of a schedule that is made for all of the config's.

        train: what is learned from. valid: ratings by whose RMSE the best epoch is chosen, None: the last epoch is
        taken. out: folder of log and checkpoints. Gives the parameters and facts: the best epoch, the variance of
        the error (noise), the RMSE on `valid`.
        """
        cfg, size = self.cfg, len(train)
        updates = min(cfg.updates, max(1, size // cfg.batch))
        rows = cfg.batch * updates
        each = max(1, round(size / rows))  # calls an epoch
        known, context = known_of(self.shape, train, self.features), context_of(self.shape, train)
        # The schedule is that of all epochs, also where a refit ends sooner: up to there it has the learning rates
        # that the first training had.
        optim = optimizer.make(cfg.opt, cfg.epochs * each * updates)
        tables = objectives.deepmf_tables() if cfg.by_row else None
        # A rating is taken out of the means of its own surroundings, or the model would read its target there.
        batches = train.ratings(context, own=True)
        source = Prefetch(
            ArraySource(batches, rows, seed=cfg.seed, share=mesh.process_rows(self.mesh, rows))
        )
        values = self.features or SideFeatures(np.zeros((1, 1)), np.zeros((1, 1)), 1, 1)
        begin = lambda key: model.init(
            key, self.shape, train.n_users, train.n_items, mean=float(train.rating_T.mean()),
            user_values=values.user_values, item_values=values.item_values,
        )  # fmt: skip
        params = mesh.sharded_init(self.mesh, begin, jax.random.key(cfg.seed))
        state = step.init_state(self.mesh, params, optim, source=source.init(), tables=tables)
        objective = objectives.deepmf(self.shape, self.decay)
        one = step.make_step(*objective, optim, state, tables=tables, updates=updates)
        judge = rmse_of(self.shape, known, valid.ratings(context)) if valid else None
        fitted = loop.fit(
            one, state, source, frozen=known, evaluate=judge, mesh=self.mesh, rows=rows, out=out,
            config=LoopConfig(
                steps=epochs * each, seed=cfg.seed, log_every=each, resume=False,
                eval_every=each if judge else 0, monitor="rmse" if judge else "train/loss",
                patience=cfg.patience if judge else 0, progress=cfg.progress,
            ),
            title="deepmf",
        )  # fmt: skip
        best = (
            checkpoint.load_params(out / "best") if judge else jax.device_get(fitted.state.params)
        )
        best = jax.tree.map(jnp.asarray, _unseen_as_mean(jax.tree.map(np.asarray, best), train))
        judge = judge or rmse_of(self.shape, known, batches)
        error = judge(best, 0)["rmse"]
        facts = {"epoch": (fitted.best or epochs * each) // each, "noise": error**2}
        return best, facts | ({"valid_rmse": error} if valid else {})


def ratings_of(train: Histories, shape: DeepMFShape) -> RatingRows:
    """Every event with its rating. Raises DeepMFError without ratings, out of range, or of unknown people."""
    if train.rating_T is None:
        raise DeepMFError("DeepMF learns from ratings: these histories have no rating_T")
    if shape.context and train.time_T is None:
        raise DeepMFError(
            "user_windows and item_windows read times: these histories have no time_T"
        )
    user = train.user_B[train.row_T]
    if user.min() < 0:
        raise DeepMFError(
            "a row to learn from belongs to nobody (user_B -1); only asking may be of unknown people"
        )
    low, high = float(train.rating_T.min()), float(train.rating_T.max())
    if not (shape.low <= low and high <= shape.high):  # NaN too
        raise DeepMFError(
            f"ratings lie in {low:g}..{high:g}, the model's range is {shape.low:g}..{shape.high:g}: "
            "set shape.low and shape.high"
        )
    return RatingRows(
        user.astype(np.int32), train.item_T.astype(np.int32), train.rating_T.astype(np.float32),
        train.time_T, train.n_users, train.n_items,
    )  # fmt: skip


def context_of(shape: DeepMFShape, train: RatingRows) -> RatingContext | None:
    """What tells of the ratings around a rating, from `train` alone; None where the shape has no windows."""
    if not shape.context:
        return None
    return RatingContext(
        train.user_T, train.item_T, train.rating_T, train.time_T, train.n_users, train.n_items,
        shape.user_windows, shape.item_windows,
    )  # fmt: skip


def known_of(shape: DeepMFShape, train: RatingRows, features: SideFeatures | None) -> SideFacts:
    """What the shape's options read of people and items, from the training ratings' places alone."""
    known = SideFacts()
    if shape.features and features is not None:
        if (len(features.user_UF), len(features.item_IF)) != (train.n_users, train.n_items):
            raise DeepMFError(
                f"features of {len(features.user_UF)} people and {len(features.item_IF)} items, but there are "
                f"{train.n_users} and {train.n_items}"
            )
        known = known.replace(user_features_UF=features.user_UF, item_features_IF=features.item_IF)
    if shape.implicit != "none":
        if train.n_users * train.n_items > model.MATRIX:
            raise DeepMFError(
                f"implicit terms keep a byte for each of {train.n_users} x {train.n_items} pairs: too many, "
                'set shape.implicit="none"'
            )
        taken_UI = np.zeros((train.n_users, train.n_items), np.uint8)
        taken_UI[train.user_T, train.item_T] = 1
        known = known.replace(taken_UI=taken_UI)
        if shape.implicit == "both":
            known = known.replace(takers_IU=np.ascontiguousarray(taken_UI.T))
    return known


def rmse_of(shape: DeepMFShape, known: SideFacts, ratings: Ratings) -> Any:
    """evaluate(params, step) -> {"rmse"}: predictions clipped to the range."""
    head = model.RatingHead(shape)
    size = min(EVALUATED, len(ratings.rating_B))
    parts = [
        _take(ratings, np.arange(start, start + size), pad=True)
        for start in range(0, len(ratings.rating_B), size)
    ]

    @jax.jit
    def squares(params: Any, known: SideFacts, part: Ratings) -> Any:
        user, item, *_ = model.sides(shape, params, known, part.user_B, jnp.maximum(part.item_B, 0))
        rating_B = jnp.clip(
            head.apply({"params": params["head"]}, user, item, part.context_BK),
            shape.low,
            shape.high,
        )
        return jnp.where(part.item_B >= 0, (rating_B - part.rating_B) ** 2, 0).sum()

    def evaluate(params: Any, step: int) -> dict[str, float]:
        total = sum(float(squares(params, known, part)) for part in parts)
        return {"rmse": (total / len(ratings.rating_B)) ** 0.5}

    return evaluate


def _take(ratings: Ratings, rows: np.ndarray, pad: bool = False) -> Ratings:
    """Some ratings; with `pad`, rows beyond the end are padding (item -1)."""
    beyond = rows >= len(ratings.rating_B)
    inside = np.where(beyond, 0, rows)
    part = jax.tree.map(lambda x: x[inside], ratings)
    return part.replace(item_B=np.where(beyond, -1, part.item_B)) if pad else part


def _unseen_as_mean(params: Any, train: RatingRows) -> Any:
    """A row that no rating ever moved holds its first random numbers, which say nothing: it takes the others' mean."""
    for name, ids in (("users", train.user_T), ("items", train.item_T)):
        table = np.array(params[name]["table"])
        moved = np.zeros(len(table), bool)
        moved[ids] = True
        table[~moved] = table[moved].mean(0)
        params = {**params, name: {"table": table}}
    return params

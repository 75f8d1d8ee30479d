"""Floor 4: DeepMF as a recommender: fitted to rated histories, it predicts the rating of any item, for new people too.

A person without a row of their own (`user_B` -1, or beyond the table) is folded in: the row that best explains their
few ratings is looked for, everything else frozen, under a normal prior fitted to the rows of known people (a MAP
estimate; Salakhutdinov & Mnih 2007 give the model its probabilities). Someone without any rating is the mean person.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxrec import checkpoint, config
from jaxrec.data.histories import Histories, Holdout
from jaxrec.models.items import deepmf as model
from jaxrec.models.items.deepmf import DeepMFError, DeepMFShape, SideFacts
from jaxrec.objectives import RatingDecay
from jaxrec.recommenders.deepmf_fit import Fit, FitConfig, RatingRows, context_of, known_of
from jaxrec.recommenders.rating_context import RatingContext
from jaxrec.recommenders.recommender import NotFitted, Recommender, must_learn
from jaxrec.recommenders.side_features import SideFeatures

PAIRS = 1 << 18  # pairs whose MLP is computed at once
BLOCK = 1 << 14  # pairs of `predict` at once


@dataclasses.dataclass(frozen=True)
class FoldIn:
    """How an unseen person's row is looked for: steps of Adam on the negative log posterior."""

    steps: int = 60
    rate: float = 0.1  # in deviations of the known people's rows


@dataclasses.dataclass(frozen=True)
class DeepMFConfig:
    """The defaults are the specification's: 64 numbers, 128-64-32-1, Adam 1e-3, batches of 1024, 5 epochs, 80/20."""

    shape: DeepMFShape = DeepMFShape()
    decay: RatingDecay = RatingDecay()
    fit: FitConfig = FitConfig()
    fold_in: FoldIn = FoldIn()


class DeepMF(Recommender):
    """Fitted by `fit`. features: what is known of people and items, needed where `shape.features`."""

    kind = "deepmf"

    def __init__(self, config: DeepMFConfig = DeepMFConfig(), features: SideFeatures | None = None):
        if config.shape.features and features is None:
            raise DeepMFError(
                "shape.features asks for side features: DeepMF(config, features=SideFeatures(...))"
            )
        self.config, self.features = config, features
        self.params: Any = None
        self.known: SideFacts = SideFacts()
        self.context: RatingContext | None = None
        self.train: RatingRows | None = None  # what the context was made of
        self.facts: dict[str, Any] = {}

    def fit(
        self, train: Histories, valid: Holdout | None = None, out: str | Path | None = None
    ) -> "DeepMF":
        """Learns from `train`, which must hold ratings in the range of the shape and nobody unknown.

        `valid` is not read: a held-out item comes without its rating. `config.fit.valid_share` of the ratings decides
        when to stop instead. `facts` then tells the best epoch and its RMSE.
        """
        del valid
        must_learn(train)
        with tempfile.TemporaryDirectory() as scratch:
            fitted = Fit(self.config.shape, self.config.decay, self.config.fit, self.features)
            self.params, used, self.facts = fitted(train, Path(out or scratch))
        self.known = known_of(self.config.shape, used, self.features)
        self._remember(used)
        return self

    # ------------------------------------------------------------------------------------------ asking

    def score(self, histories: Histories) -> Float[np.ndarray, "B I"]:
        """The predicted rating of every item for each row's person."""
        params = self._fitted()
        self._same_items(histories)
        item_IW = _items(params, self.known)
        user_BW = self.sides(histories)
        step = max(1, PAIRS // len(item_IW))
        parts = [
            np.asarray(_grid(self.config.shape, params["head"], part, item_IW))[:size]
            for part, size in _padded_parts(user_BW, step)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, len(item_IW)), np.float32)

    def predict(
        self,
        user_B: Int[np.ndarray, " B"],
        item_B: Int[np.ndarray, " B"],
        time_B: np.ndarray | None = None,
    ) -> Float[np.ndarray, " B"]:
        """The rating of one item for one known person a row.

        time_B: when it is given (Unix seconds), for shapes with windows; without it those say nothing.
        Raises DeepMFError for a person or item without a row.
        """
        params = self._fitted()
        for what, ids_B in (("users", user_B), ("items", item_B)):
            size = len(params[what]["table"])
            if len(ids_B) and not (0 <= ids_B.min() and ids_B.max() < size):
                raise DeepMFError(
                    f"{what} are numbered 0..{size - 1} here; fold unknown people in by predict_for"
                )
        context_BK = np.zeros((len(user_B), self.config.shape.context), np.float32)
        if self.context is not None and time_B is not None:
            context_BK = self.context(user_B, item_B, time_B)
        found = []
        for start in range(0, len(user_B), BLOCK):
            ask = (user_B.astype(np.int32), item_B.astype(np.int32), context_BK)
            block = [_filled(x[start : start + BLOCK]) for x in ask]
            rating_B = _predict(self.config.shape, params, self.known, *block)
            found.append(np.asarray(rating_B)[: len(user_B) - start])
        return np.concatenate(found) if found else np.zeros(0, np.float32)

    def predict_for(
        self, histories: Histories, item_B: Int[np.ndarray, " B"]
    ) -> Float[np.ndarray, " B"]:
        """The rating of one item for each row's person, unknown ones folded in."""
        params = self._fitted()
        self._same_items(histories)
        item_BW = np.asarray(_items(params, self.known))[item_B]
        head = model.RatingHead(self.config.shape)
        rating_B = head.apply(
            {"params": params["head"]}, jnp.asarray(self.sides(histories)), jnp.asarray(item_BW)
        )
        return np.clip(np.asarray(rating_B), self.config.shape.low, self.config.shape.high)

    def user_vectors(self) -> Float[np.ndarray, "U E"]:
        """Each known person's vector, `width` numbers, without the bias: what personas are made of."""
        params = self._fitted()
        whole = model.person(
            params, params["users"]["table"], self.known.user_features_UF, self.known.taken_UI
        )
        return np.asarray(whole)[:, : self.config.shape.width]

    def item_vectors(self) -> Float[np.ndarray, "I E"]:
        """Each item's vector, without the bias."""
        return np.asarray(_items(self._fitted(), self.known))[:, : self.config.shape.width]

    def sides(self, histories: Histories) -> Float[np.ndarray, "B W"]:
        """Each row's person as the head reads them: known by their number, or folded in from their ratings."""
        params = self._fitted()
        there_B = (histories.user_B >= 0) & (histories.user_B < len(params["users"]["table"]))
        side_BW = np.zeros((len(histories), self.config.shape.row), np.float32)
        if there_B.any():
            side_BW[there_B] = _people(
                params, self.known, histories.user_B[there_B].astype(np.int32)
            )
        if not there_B.all():
            side_BW[~there_B] = self.fold_in(histories.take(np.flatnonzero(~there_B)))
        return side_BW

    def fold_in(self, histories: Histories) -> Float[np.ndarray, "B W"]:
        """The sides of people without rows, from their items and ratings alone. Raises DeepMFError without ratings."""
        params = self._fitted()
        self._same_items(histories)
        if histories.rating_T is None:
            raise DeepMFError(
                "people are folded in from what they rated: these histories have no rating_T"
            )
        item_IW = _items(params, self.known)
        found = np.zeros((len(histories), self.config.shape.row), np.float32)
        # Rows of like length together, lengths and counts rounded up to powers of two: few programs serve all.
        for length in np.unique(_power(histories.length_B)):
            rows = np.flatnonzero(_power(histories.length_B) == length)
            for start in range(0, len(rows), 256):
                part = rows[start : start + 256]
                some = histories.take(part)
                size = int(_power(len(part)))
                items_BL, ratings_BL = (
                    np.full((size, length), -1, np.int32),
                    np.zeros((size, length), np.float32),
                )
                place = np.arange(len(some.item_T)) - some.start_B[some.row_T]
                items_BL[some.row_T, place], ratings_BL[some.row_T, place] = (
                    some.item_T,
                    some.rating_T,
                )
                side_BW = _fold_in(
                    self.config.shape, self.config.fold_in, params, item_IW, items_BL, ratings_BL,
                    jnp.float32(self.facts["noise"]),
                )  # fmt: skip
                found[part] = np.asarray(side_BW)[: len(part)]
        return found

    # ------------------------------------------------------------------------------------------ files

    def save(self, folder: str | Path) -> None:
        """Parameters and what is known of people and items, with the config in facts.json."""
        known = {
            name: x for name in _fields(SideFacts) if (x := getattr(self.known, name)) is not None
        }
        facts = {"kind": self.kind, "config": config.to_dict(self.config), **self.facts}
        tree = {"params": self._fitted(), "known": known}
        if self.train is not None:
            arrays = ("user_T", "item_T", "rating_T", "time_T")
            tree["train"] = {name: getattr(self.train, name) for name in arrays}
        checkpoint.save_params(folder, tree, facts)

    @classmethod
    def load(cls, folder: str | Path) -> "DeepMF":
        """What `save` wrote. Raises CheckpointError where the folder is not whole or holds another kind."""
        facts = checkpoint.load_facts(folder)
        if facts.get("kind") != cls.kind:
            raise checkpoint.CheckpointError(
                f"{folder} holds a {facts.get('kind')!r}, not a {cls.kind!r}"
            )
        cfg = config.from_dict(DeepMFConfig, facts.pop("config"))
        tree = checkpoint.load_params(folder)
        known = SideFacts(**tree.get("known", {}))
        told = (
            SideFeatures.of_ids(known.user_features_UF, known.item_features_IF)
            if cfg.shape.features
            else None
        )
        found = cls(cfg, told)
        found.params, found.known = jax.tree.map(jnp.asarray, (tree["params"], known))
        if "train" in tree:
            size = len(found.params["users"]["table"]), len(found.params["items"]["table"])
            found._remember(RatingRows(**tree["train"], n_users=size[0], n_items=size[1]))
        found.facts = {name: value for name, value in facts.items() if name != "kind"}
        return found

    def _remember(self, train: RatingRows) -> None:
        self.context = context_of(self.config.shape, train)
        self.train = train if self.context else None

    def _fitted(self) -> Any:
        if self.params is None:
            raise NotFitted("this DeepMF was neither fitted nor loaded")
        return self.params

    def _same_items(self, histories: Histories) -> None:
        if histories.n_items != len(self._fitted()["items"]["table"]):
            raise DeepMFError(
                f"these histories number {histories.n_items} items, the model was fitted to "
                f"{len(self.params['items']['table'])}"
            )


# ---------------------------------------------------------------------------------------------- programs


@jax.jit
def _items(params: Any, known: SideFacts) -> Float[jax.Array, "I W"]:
    return model.all_items(params, known)


@jax.jit
def _people(params: Any, known: SideFacts, user_B: Int[jax.Array, " B"]) -> Float[jax.Array, "B W"]:
    take = lambda rows: None if rows is None else rows[user_B]
    return model.person(
        params, params["users"]["table"][user_B], take(known.user_features_UF), take(known.taken_UI)
    )


def _clipped_grid(shape: DeepMFShape, head: Any, user_BW: Any, item_IW: Any) -> Any:
    half_IF = model.halves(shape, head, item_IW[None])
    return jnp.clip(model.grid(shape, head, user_BW, item_IW[None], half_IF), shape.low, shape.high)


_grid = jax.jit(_clipped_grid, static_argnums=0)


def _predict_pairs(
    shape: DeepMFShape, params: Any, known: SideFacts, user_B: Any, item_B: Any, context_BK: Any
) -> Any:
    user, item, *_ = model.sides(shape, params, known, user_B, item_B)
    rating_B = model.RatingHead(shape).apply({"params": params["head"]}, user, item, context_BK)
    return jnp.clip(rating_B, shape.low, shape.high)


_predict = jax.jit(_predict_pairs, static_argnums=0)


def _map_rows(
    shape: DeepMFShape,
    how: FoldIn,
    params: Any,
    item_IW: Float[jax.Array, "I W"],
    items_BL: Int[jax.Array, "B L"],
    ratings_BL: Float[jax.Array, "B L"],
    noise: Any,
) -> Float[jax.Array, "B W"]:
    """Rows = mean + deviation * z; z from zero by Adam on sum(error^2) / noise + |z|^2."""
    table = params["users"]["table"]
    mean_W, deviation_W = table.mean(0), table.std(0) + 1e-6
    real_BL = items_BL >= 0
    its_BLW = item_IW[jnp.maximum(items_BL, 0)]
    half_BLF = model.halves(shape, params["head"], its_BLW)
    taken_BI = None
    if shape.implicit != "none":
        place = jnp.where(real_BL, items_BL, len(item_IW))
        rows = jnp.broadcast_to(jnp.arange(len(items_BL))[:, None], items_BL.shape)
        taken_BI = jnp.zeros((len(items_BL), len(item_IW))).at[rows, place].set(1.0, mode="drop")
    rest_BW = model.person(params, jnp.zeros((len(items_BL), shape.row)), None, taken_BI)
    side = lambda z_BW: mean_W[None] + deviation_W[None] * z_BW + rest_BW

    def cost(z_BW: Any) -> Any:
        rating_BL = model.grid(shape, params["head"], side(z_BW), its_BLW, half_BLF)
        return (real_BL * (rating_BL - ratings_BL) ** 2).sum() / noise + (z_BW**2).sum()

    def step(n: Any, carry: Any) -> Any:
        z, mu, nu = carry
        grad = jax.grad(cost)(z)
        mu, nu = 0.9 * mu + 0.1 * grad, 0.99 * nu + 0.01 * grad**2
        left = 1 - n / how.steps  # or Adam would circle around the best point
        move = (mu / (1 - 0.9 ** (n + 1))) / (jnp.sqrt(nu / (1 - 0.99 ** (n + 1))) + 1e-8)
        return z - how.rate * left * move, mu, nu

    zero = jnp.zeros((len(items_BL), shape.row))
    z_BW, _, _ = jax.lax.fori_loop(0, how.steps, step, (zero, zero, zero))
    return side(z_BW)


_fold_in = jax.jit(_map_rows, static_argnums=(0, 1))


def _fields(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _power(size: np.ndarray | int) -> Any:
    """The next power of two, at least 1."""
    return 1 << np.ceil(np.log2(np.maximum(size, 1))).astype(int)


def _filled(rows_B: np.ndarray) -> np.ndarray:
    """Rows padded with zeros to a power of two, so that few programs serve all lengths."""
    more = int(_power(len(rows_B))) - len(rows_B)
    return np.pad(rows_B, [(0, more)] + [(0, 0)] * (rows_B.ndim - 1))


def _padded_parts(rows_BW: np.ndarray, step: int) -> list[tuple[np.ndarray, int]]:
    """Parts of `step` rows with their true sizes; the last one is padded, so that one program serves all."""
    step = int(min(step, _power(len(rows_BW))))
    parts = [rows_BW[start : start + step] for start in range(0, len(rows_BW), step)]
    return [(np.pad(part, ((0, step - len(part)), (0, 0))), len(part)) for part in parts]

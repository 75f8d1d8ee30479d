"""Floor 4: item-kNN: what is taken by the same people is alike (Deshpande & Karypis 2004).

The likeness of two items is the cosine of the columns of people, shrunk where few people speak for it. An item is
scored by its likeness to every item of the history, as far as it is among that item's nearest neighbours.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from jaxrec import config
from jaxrec.config import RunError
from jaxrec.data.histories import Histories, Holdout
from jaxrec.recommenders.recommender import NotFitted, Recommender, must_learn, top
from jaxrec.types import Shortlist

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

UNLIKE = 1e-6  # times an item's share of people: popularity decides where no neighbour speaks


@dataclasses.dataclass(frozen=True)
class ItemKNNConfig:
    """How many neighbours an item keeps, and what is added to the cosine's denominator (in people)."""

    neighbours: int = 100
    shrink: float = 10.0
    width: int = 64  # of `item_vectors`


class ItemKNN(Recommender):
    """Scores items by the neighbours of what the history holds; a person's number is not looked at."""

    kind = "item_knn"

    def __init__(self, config: ItemKNNConfig = ItemKNNConfig()):
        if config.neighbours < 1 or config.shrink < 0:
            raise RunError("item-kNN needs at least one neighbour and a shrink of 0 or more")
        self.config = config
        self.likeness: csr_matrix | None = None  # [I, I], the nearest of each row
        self.popular_I = np.zeros(0, np.float32)
        self.vectors_IE: np.ndarray | None = None
        self.facts: dict[str, Any] = {}

    def fit(
        self, train: Histories, valid: Holdout | None = None, out: str | Path | None = None
    ) -> "ItemKNN":
        """Counts who took what together. Raises NothingToLearn without any event."""
        must_learn(train)
        taken_UI = _taken(train)
        count_I = np.asarray(taken_UI.sum(0), np.float32).ravel()
        both = (taken_UI.T @ taken_UI).tocoo()
        # An item is most like itself: left in, it would take a neighbour's place and recommend what is owned
        # already.
        apart = both.row != both.col
        row, col, both = both.row[apart], both.col[apart], both.data[apart]
        cosine = both / (np.sqrt(count_I[row] * count_I[col]) + self.config.shrink)
        self.likeness = _nearest(row, col, cosine, train.n_items, self.config.neighbours)
        self.popular_I = count_I / max(len(train), 1)
        self.vectors_IE = _reduced(taken_UI, self.config.width)
        return self

    def score(self, histories: Histories) -> Float[np.ndarray, "B I"]:
        """Sums of likeness to the row's items; the popular first where nothing is alike."""
        likeness = self._fitted()
        scores_BI = np.asarray((_taken(histories) @ likeness).todense(), np.float32)
        return scores_BI + UNLIKE * self.popular_I[None]

    def similar_items(self, items_B: Int[np.ndarray, " B"], k: int = 10) -> Shortlist:
        """The nearest neighbours by shrunk cosine; item -1 beyond those that share no person with it."""
        scores_BI = np.asarray(self._fitted()[items_B].todense(), np.float32)
        return top(np.where(scores_BI > 0, scores_BI, -np.inf), k)

    def item_vectors(self) -> Float[np.ndarray, "I E"]:
        """The columns of people, each of length 1, by their `width` largest singular vectors."""
        self._fitted()
        return self.vectors_IE

    def save(self, folder: str | Path) -> None:
        """The neighbours, and the configuration in facts.json."""
        from jaxrec import checkpoint  # brings jax, which counting and answering need not

        facts = {"kind": self.kind, "config": config.to_dict(self.config)}
        checkpoint.save_params(folder, self.arrays(), facts)

    @classmethod
    def load(cls, folder: str | Path) -> "ItemKNN":
        """What `save` wrote. Raises CheckpointError where the folder is not whole."""
        from jaxrec import checkpoint

        made_by = config.from_dict(ItemKNNConfig, checkpoint.load_facts(folder)["config"])
        return cls.of(checkpoint.load_params(folder), made_by)

    def arrays(self) -> dict[str, np.ndarray]:
        """All that was counted, by name; `of` takes it back."""
        likeness = self._fitted()
        arrays = {"item": likeness.indices, "start": likeness.indptr, "likeness": likeness.data}
        return arrays | {"popular": self.popular_I, "vectors": self.vectors_IE}

    @classmethod
    def of(
        cls, saved: Mapping[str, np.ndarray], made_by: ItemKNNConfig = ItemKNNConfig()
    ) -> "ItemKNN":
        """The recommender that gave these `arrays`."""
        from scipy.sparse import csr_matrix

        found = cls(made_by)
        found.popular_I, found.vectors_IE = saved["popular"], saved["vectors"]
        size = len(found.popular_I)
        parts = tuple(np.asarray(saved[name]) for name in ("likeness", "item", "start"))
        found.likeness = csr_matrix(parts, shape=(size, size))
        return found

    def _fitted(self) -> "csr_matrix":
        if self.likeness is None:
            raise NotFitted("item-kNN has no neighbours yet: fit it, or load one")
        return self.likeness


def _taken(histories: Histories) -> "csr_matrix":
    """1 where a row holds an item, however often. [B I]"""
    from scipy.sparse import csr_matrix

    cells = np.unique(histories.row_T * np.int64(histories.n_items) + histories.item_T)
    row, item = np.divmod(cells, histories.n_items)
    shape = (len(histories), histories.n_items)
    return csr_matrix((np.ones(len(cells), np.float32), (row, item)), shape=shape)


def _nearest(
    row: np.ndarray, col: np.ndarray, value: np.ndarray, size: int, count: int
) -> "csr_matrix":
    """The `count` largest values of each row, ties to the smaller column. [I I]"""
    from scipy.sparse import csr_matrix

    order = np.lexsort((col, -value, row))
    row, col, value = row[order], col[order], value[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    kept = place < count
    if (
        not kept.any()
    ):  # nothing is like anything: one cell of 0, for a checkpoint holds no empty array
        row, col, value, kept = *np.zeros((2, 1), np.int64), np.zeros(1), np.ones(1, bool)
    cells = (value[kept].astype(np.float32), (row[kept], col[kept]))
    found = csr_matrix(cells, shape=(size, size))
    found.sort_indices()
    return found


def _reduced(taken_UI: "csr_matrix", width: int) -> Float[np.ndarray, "I E"]:
    """Items by the largest singular vectors of their normalised columns; zeros where there are fewer."""
    from scipy.sparse import diags
    from scipy.sparse.linalg import svds

    count_I = np.asarray(taken_UI.sum(0)).ravel()
    unit_IU = diags(1 / np.sqrt(np.maximum(count_I, 1))) @ taken_UI.T
    rank = min(width, min(unit_IU.shape) - 1)
    out_IE = np.zeros((unit_IU.shape[0], width), np.float32)
    if rank > 0:
        left, value, _ = svds(unit_IU.astype(np.float64), rank, rng=np.random.default_rng(0))
        out_IE[:, :rank] = left * value
    return out_IE

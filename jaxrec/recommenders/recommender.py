"""Floor 4: the few verbs that every recommender speaks: fit, recommend, similar_items, save, load.

A recommender is made from its config (`Popularity(PopularityConfig(...))`), fitted to `Histories`, and asked about
`Histories`: it reads a row's items, its person's number, or both, as suits its kind.
"""

import abc
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from jaxrec.config import RunError
from jaxrec.data.histories import Histories, Holdout
from jaxrec.types import Shortlist

BLOCK = 1024  # people scored at once


class NotFitted(RunError):
    """A recommender was asked before it was fitted or loaded."""


class NothingToLearn(RunError):
    """A recommender was given no event to learn from."""


class Recommender(abc.ABC):
    """What can be fitted to histories and then recommends. `kind` names it in its folder (`facts.json`).

    `lists_only`: its lists come from a search, so they are what it is judged by, not `score`. `facts`: what the last
    fit has to tell, `epoch` (the one that was kept) where there are epochs.
    """

    kind: ClassVar[str]
    lists_only: ClassVar[bool] = False
    config: Any
    facts: dict[str, Any]

    @abc.abstractmethod
    def fit(
        self, train: Histories, valid: Holdout | None = None, out: str | Path | None = None
    ) -> "Recommender":
        """Learns from `train`. `valid` decides when to stop, where that is a question. OUT: log and checkpoints."""

    @abc.abstractmethod
    def score(self, histories: Histories) -> Float[np.ndarray, "B I"]:
        """How well each item would come next in each row; comparable within a row only."""

    @abc.abstractmethod
    def item_vectors(self) -> Float[np.ndarray, "I E"]:
        """What the model knows of each item, as vectors whose cosine is likeness."""

    @abc.abstractmethod
    def save(self, folder: str | Path) -> None:
        """Writes all that `load` needs."""

    @classmethod
    @abc.abstractmethod
    def load(cls, folder: str | Path) -> "Recommender":
        """The recommender that `save` wrote. Raises CheckpointError where the folder is not whole."""

    def recommend(self, histories: Histories, k: int = 10, *, mask_seen: bool = True) -> Shortlist:
        """The k best items for each row, best first, ties in the order of item numbers."""
        items, scores = [], []
        for block in blocks(histories):
            part_BI = self.score(block)
            if mask_seen:
                part_BI = np.array(part_BI)
                part_BI[block.row_T, block.item_T] = -np.inf
            found = top(part_BI, k)
            items.append(found.items_BJ)
            scores.append(found.scores_BJ)
        if not items:
            return Shortlist(np.zeros((0, k), np.int64), np.zeros((0, k), np.float32))
        return Shortlist(np.concatenate(items), np.concatenate(scores))

    def similar_items(self, items_B: Int[np.ndarray, " B"], k: int = 10) -> Shortlist:
        """The k items whose vectors lie closest to each of `items_B` by cosine, itself left out."""
        vectors_IE = self.item_vectors()
        unit_IE = vectors_IE / np.maximum(np.linalg.norm(vectors_IE, axis=1, keepdims=True), 1e-9)
        scores_BI = unit_IE[items_B] @ unit_IE.T
        scores_BI[np.arange(len(items_B)), items_B] = -np.inf
        return top(scores_BI, k)


def must_learn(train: Histories, valid: Holdout | None = None) -> None:
    """Raises NothingToLearn where there is no event, or a validation that asks nobody."""
    if not len(train.item_T):
        raise NothingToLearn("there is nothing to learn from: the training histories hold no event")
    if valid is not None and not len(valid):
        raise NothingToLearn(
            "nobody is held out to tell when to stop: leaving one out needs people with three events"
        )


def blocks(histories: Histories, size: int = BLOCK) -> list[Histories]:
    """The rows in parts of at most `size`, so that no matrix of all people by all items is made."""
    return [
        histories.take(np.arange(start, min(start + size, len(histories))))
        for start in range(0, len(histories), size)
    ]


def top(scores_BI: Float[np.ndarray, "B I"], k: int) -> Shortlist:
    """The k best of each row, ties in the order of item numbers; item -1, score -inf, where fewer are finite."""
    scores_BI = np.where(np.isnan(scores_BI), -np.inf, scores_BI)
    k_there = min(k, scores_BI.shape[1])
    part_BJ = np.argpartition(-scores_BI, k_there - 1, axis=1)[:, :k_there]
    kept_BJ = np.take_along_axis(scores_BI, part_BJ, 1)
    last_B1 = kept_BJ.min(1, keepdims=True)
    # The partition takes any of the items that tie for the last places: there the first numbers are taken instead.
    tied = np.flatnonzero((scores_BI >= last_B1).sum(1) > k_there)
    if len(tied):
        above_BI = scores_BI[tied] > last_B1[tied]
        equal_BI = scores_BI[tied] == last_B1[tied]
        places_B1 = k_there - above_BI.sum(1, keepdims=True)
        above_BI |= equal_BI & (np.cumsum(equal_BI, axis=1) <= places_B1)
        part_BJ[tied] = np.nonzero(above_BI)[1].reshape(len(tied), k_there)
    part_BJ.sort(axis=1)
    kept_BJ = np.take_along_axis(scores_BI, part_BJ, 1)
    order_BJ = np.argsort(-kept_BJ, axis=1, kind="stable")
    items_BJ = np.take_along_axis(part_BJ, order_BJ, 1)
    scores_BJ = np.take_along_axis(kept_BJ, order_BJ, 1)
    items_BJ = np.where(np.isneginf(scores_BJ), -1, items_BJ)
    wide = ((0, 0), (0, k - k_there))
    return Shortlist(
        np.pad(items_BJ, wide, constant_values=-1),
        np.pad(scores_BJ, wide, constant_values=-np.inf),
    )

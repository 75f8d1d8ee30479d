"""Floor 4: popularity: everybody is recommended what most people took. The floor under every other recommender."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxrec import checkpoint, config
from jaxrec.data.histories import Histories, Holdout
from jaxrec.recommenders.recommender import NotFitted, Recommender, must_learn, top
from jaxrec.types import Shortlist


@dataclasses.dataclass(frozen=True)
class PopularityConfig:
    """`people`: an item counts once for each person who has it; else once for each event."""

    people: bool = False


class Popularity(Recommender):
    """Scores an item by how often it was taken, whoever asks."""

    kind = "popularity"

    def __init__(self, config: PopularityConfig = PopularityConfig()):
        self.config = config
        self.count_I: np.ndarray | None = None
        self.facts: dict[str, Any] = {}

    def fit(
        self, train: Histories, valid: Holdout | None = None, out: str | Path | None = None
    ) -> "Popularity":
        """Counts. Raises NothingToLearn without any event."""
        must_learn(train)
        item_T = train.item_T
        if self.config.people:
            item_T = np.unique(train.row_T * train.n_items + item_T) % train.n_items
        self.count_I = np.bincount(item_T, minlength=train.n_items).astype(np.float32)
        return self

    def score(self, histories: Histories) -> Float[np.ndarray, "B I"]:
        """The counts, the same in every row."""
        return np.tile(self._counts(), (len(histories), 1))

    def item_vectors(self) -> Float[np.ndarray, "I E"]:
        """The counts as vectors of one number: popularity knows of no other likeness."""
        return self._counts()[:, None]

    def similar_items(self, items_B: Int[np.ndarray, " B"], k: int = 10) -> Shortlist:
        """The k most popular other items: likeness does not come into it."""
        scores_BI = np.tile(self._counts(), (len(items_B), 1))
        scores_BI[np.arange(len(items_B)), items_B] = -np.inf
        return top(scores_BI, k)

    def save(self, folder: str | Path) -> None:
        """The counts, and the configuration in facts.json."""
        facts = {"kind": self.kind, "config": config.to_dict(self.config)}
        checkpoint.save_params(folder, {"count": self._counts()}, facts)

    @classmethod
    def load(cls, folder: str | Path) -> "Popularity":
        """What `save` wrote. Raises CheckpointError where the folder is not whole."""
        found = cls(config.from_dict(PopularityConfig, checkpoint.load_facts(folder)["config"]))
        found.count_I = np.asarray(checkpoint.load_params(folder)["count"])
        return found

    def _counts(self) -> Float[np.ndarray, " I"]:
        if self.count_I is None:
            raise NotFitted("popularity has counted nothing yet: fit it, or load one")
        return self.count_I

"""Floor 4: what a sequence model thinks of everybody, kept as vectors: a known person is answered without a model."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxrec.data.histories import Histories


class VectorScores:
    """Scores z_u . v_i from kept vectors. Somebody without a kept one is read by the model itself, loaded then.

    people_UE: z of each person's whole history. items_IE: the items' vectors. load: gives the model that made them.
    """

    def __init__(
        self,
        people_UE: Float[np.ndarray, "U E"],
        items_IE: Float[np.ndarray, "I E"],
        load: Callable[[], Any],
    ):
        self.people_UE, self.items_IE, self._load = people_UE, items_IE, load

    @cached_property
    def model(self) -> Any:
        """The recommender with `encode`."""
        return self._load()

    def score(self, histories: Histories) -> Float[np.ndarray, "B I"]:
        """How well each item would come next."""
        known = bool((histories.user_B >= 0).all())
        z_BE = self.people_UE[histories.user_B] if known else self.model.encode(histories)
        return z_BE @ self.items_IE.T

    def save(self, path: str | Path) -> None:
        """Writes the vectors."""
        np.savez(path, people=self.people_UE, items=self.items_IE)

    @classmethod
    def load(cls, path: str | Path, load: Callable[[], Any]) -> "VectorScores":
        """What `save` wrote."""
        with np.load(path) as saved:
            return cls(saved["people"], saved["items"], load)

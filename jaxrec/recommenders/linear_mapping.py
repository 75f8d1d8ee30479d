"""Floor 4: a linear map between two shops' spaces, fitted on the people of both: EMCDR (Man et al. 2017), the floor.

Each shop is factorised by itself. Ridge regression then learns, from everybody who has events in both, the vector in
the target shop from the vector in the other; the penalty is chosen on validation.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxrec.data.histories import Histories, Holdout

PENALTIES = (1.0, 10.0, 100.0, 1000.0, 10_000.0)  # times the mean square of the vectors


@dataclasses.dataclass(frozen=True)
class MappedSpaces:
    """Vectors of both spaces, and the map: target = (source - its mean) @ matrix + mean."""

    matrix_EW: np.ndarray
    source_E: np.ndarray
    target_W: np.ndarray

    @classmethod
    def fit(
        cls,
        source_UE: Float[np.ndarray, "U E"],
        target_UW: Float[np.ndarray, "U W"],
        penalty: float,
    ) -> "MappedSpaces":
        """Ridge regression over the people of both shops, with an intercept."""
        x0, y0 = source_UE.mean(0), target_UW.mean(0)
        x, y = source_UE - x0, target_UW - y0
        ridge = penalty * np.square(source_UE).mean() * np.eye(x.shape[1])
        return cls(np.linalg.solve(x.T @ x + ridge, x.T @ y), x0, y0)

    def __call__(self, source_UE: Float[np.ndarray, "U E"]) -> Float[np.ndarray, "U W"]:
        """The vectors in the target shop that the map expects."""
        return (source_UE - self.source_E) @ self.matrix_EW + self.target_W


class LinearMapping:
    """Maps from `source`, the shop where people are known, to `target`, where they are cold.

    parts: a fitted CrossDomain, whose factorisations of the shops it uses; of it nothing else.
    """

    def __init__(self, parts: Any, source: int, target: int):
        self.parts, self.there, self.here = parts, parts.shops[source], parts.shops[target]
        both = np.intersect1d(self.here.members, self.there.members)
        self.known_UE = self.there.factors.people(parts.taken_UI[both][:, self.there.items])
        self.wanted_UE = self.here.factors.people(parts.taken_UI[both][:, self.here.items])
        self.map = MappedSpaces.fit(self.known_UE, self.wanted_UE, PENALTIES[0])
        self.penalty = PENALTIES[0]

    def fit(self, valid: Holdout, candidates: int = 1000) -> "LinearMapping":
        """Chooses the penalty by the mean reciprocal place of validation targets, as if among `candidates` items."""
        place_B = np.searchsorted(self.here.items, valid.target_B)
        share = min((candidates - 1) / max(len(self.here.items) - 1, 1), 1.0)
        best = -1.0
        for penalty in PENALTIES:
            tried = MappedSpaces.fit(self.known_UE, self.wanted_UE, penalty)
            score_BW = self._scores(valid.histories, tried)
            own_B1 = np.take_along_axis(score_BW, place_B[:, None], 1)
            value = (1 / (1 + ((score_BW >= own_B1).sum(1) - 1) * share)).mean()
            if value > best:
                best, self.penalty, self.map = value, penalty, tried
        return self

    def chances(self, histories: Histories) -> Float[np.ndarray, "B W"]:
        """Scores of the target shop's items, in the order of their numbers."""
        return self._scores(histories, self.map)

    def _scores(self, histories: Histories, how: MappedSpaces) -> Float[np.ndarray, "B W"]:
        known = self.there.factors.people(self.parts.ownership(histories)[:, self.there.items])
        return how(known) @ self.here.factors.item_IE.T

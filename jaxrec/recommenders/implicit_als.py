"""Floor 4: matrix factorisation of who took what, by alternating least squares (Hu, Koren and Volinsky 2008).

A taken item counts 1 + alpha times as much as one that was not taken, and both sides are solved for in turn. A row with
n items costs one system of n equations, not of `width` (Woodbury), and rows of equal n are solved together.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

ROWS = 4096  # solved at once


@dataclasses.dataclass(frozen=True)
class ALSConfig:
    """How wide, and how much a taken item weighs."""

    width: int = 64
    alpha: float = 10.0
    decay: float = 5.0
    rounds: int = 6
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Factors:
    """Vectors of items, and what solves for anybody's vector given what they took."""

    item_IE: np.ndarray
    inverse_EE: np.ndarray  # of item' item + decay
    alpha: float

    def people(self, taken_UI: Any) -> Float[np.ndarray, "U E"]:
        """The vector of each row of a sparse matrix of ones; zeros for a row without items."""
        return _solve(taken_UI.tocsr(), self.item_IE, self.inverse_EE, self.alpha)


def factorise(taken_UI: Any, cfg: ALSConfig) -> Factors:
    """Items' vectors of a sparse matrix of ones."""
    rng = np.random.default_rng(cfg.seed)
    width = min(cfg.width, *taken_UI.shape)
    item_IE = rng.normal(0, 0.1, (taken_UI.shape[1], width))
    rows, columns = taken_UI.tocsr(), taken_UI.T.tocsr()
    for _ in range(cfg.rounds):
        user_UE = _solve(rows, item_IE, _inverse(item_IE, cfg.decay), cfg.alpha)
        item_IE = _solve(columns, user_UE, _inverse(user_UE, cfg.decay), cfg.alpha)
    return Factors(item_IE, _inverse(item_IE, cfg.decay), cfg.alpha)


def _inverse(side_XE: np.ndarray, decay: float) -> np.ndarray:
    return np.linalg.inv(side_XE.T @ side_XE + decay * np.eye(side_XE.shape[1]))


def _solve(
    rows: Any, other_XE: np.ndarray, inverse_EE: np.ndarray, alpha: float
) -> Float[np.ndarray, "U E"]:
    """x = (G + alpha Y'Y)^-1 (1 + alpha) Y'1 for each row, Y being the vectors of its items and G^-1 `inverse_EE`."""
    out = np.zeros((rows.shape[0], other_XE.shape[1]))
    length = np.diff(rows.indptr)
    # What all items contribute to a row's system is the same for every row (Hu 2008), so its inverse is made once;
    # a row corrects it for its own n items.
    near_XE = other_XE @ inverse_EE
    for n in np.unique(length[length > 0]):
        whole = np.flatnonzero(length == n)
        size = max(ROWS // int(n), 1)
        for at in range(0, len(whole), size):
            part = whole[at : at + size]
            items = rows.indices[rows.indptr[part][:, None] + np.arange(n)]
            y, near = other_XE[items], near_XE[items]
            # Woodbury: (G + alpha Y'Y)^-1 = G^-1 - G^-1 Y' (1 / alpha + Y G^-1 Y')^-1 Y G^-1. The system in the
            # middle is n x n.
            inner = np.eye(n) / alpha + np.einsum("rie,rje->rij", near, y)
            first = near.sum(1)
            seen = np.einsum("rie,re->ri", y, first)
            back = np.linalg.solve(inner, seen[..., None])[..., 0]
            out[part] = (1 + alpha) * (first - np.einsum("ri,rie->re", back, near))
    return out

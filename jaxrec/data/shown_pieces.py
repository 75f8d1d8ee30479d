"""Which pieces of a person an editor is shown beside a choice: some at random to train on, the first k to be tested.

Never the piece that the choice itself is about.
"""

import numpy as np
from jaxtyping import Int

from jaxrec.data.candidate_sets import CandidateSet


def draw_pieces(
    data: CandidateSet, rows: Int[np.ndarray, " B"], size: int, rng: np.random.Generator
) -> tuple[Int[np.ndarray, "B S"], Int[np.ndarray, "B S"]]:
    """(contexts, texts) of 0 to `size` random pieces of each row's person; -1 where there is none.

    The number is log-uniform: an encoder must make do with few pieces and with none.

    data: the set. rows: whose pieces. rng: of the draw.
    """
    person, own = data.person_N[rows], data.piece_N[rows]
    there = _others(data, person, own)
    order = np.argsort(np.where(there, rng.random(there.shape), 2.0), 1)[:, :size]
    count = np.exp(rng.uniform(np.log(0.5), np.log(size + 1), (len(rows), 1))).astype(int)
    return _at(data, person, order, there, np.arange(order.shape[1])[None, :] < count)


def first_shown(
    data: CandidateSet, rows: Int[np.ndarray, " B"], k: int, size: int
) -> tuple[Int[np.ndarray, "B S"], Int[np.ndarray, "B S"]]:
    """(contexts, texts) [B, size] of the first k pieces of each row's person that the row is not about.

    data: the set. rows: whose pieces.
    """
    person, own = data.person_N[rows], data.piece_N[rows]
    there = _others(data, person, own)
    order = np.argsort(~there, 1, kind="stable")[:, :size]
    return _at(data, person, order, there, np.arange(order.shape[1])[None, :] < k)


def _others(data: CandidateSet, person_B: np.ndarray, own_B: np.ndarray) -> np.ndarray:
    places = np.arange(data.piece_text_UK.shape[1])[None, :]
    return (data.piece_text_UK[person_B] >= 0) & (places != own_B[:, None])


def _at(
    data: CandidateSet, person_B: np.ndarray, order: np.ndarray, there: np.ndarray, few: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    real = np.take_along_axis(there, order, 1) & few
    pick = lambda piece_UK: np.where(real, np.take_along_axis(piece_UK[person_B], order, 1), -1)
    return pick(data.piece_context_UK).astype(np.int32), pick(data.piece_text_UK).astype(np.int32)

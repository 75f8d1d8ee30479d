"""Floor 2: one score of a passage out of several, with weights that were learned on questions with known answers.

    score = vectors * cosine + words * (BM25 / the question's highest) + late * MaxSim

The weights are those under which the right passage is most probable among the candidates, softmax(score) (a
conditional logit, McFadden 1974). Reciprocal ranks, which need no weights, lose to the cosine alone at rank 1.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxrec.retrieval.top_k import SearchError

PARTS = ("vectors", "words", "late")


@dataclasses.dataclass(frozen=True)
class Fusion:
    """How much each part counts. Only their proportions matter to an order."""

    vectors: float = 1.0
    words: float = 0.2
    late: float = 0.0

    def __post_init__(self) -> None:
        values = dataclasses.astuple(self)
        if not all(np.isfinite(values)) or min(values) < 0 or not self.vectors + self.words:
            raise SearchError(
                f"weights {values} of vectors, words and late: none below 0, one of the first two above it"
            )

    def score(self, parts: "Parts") -> Float[np.ndarray, " J"]:
        """One number for each candidate."""
        return self.vectors * parts.vectors + self.words * parts.words + self.late * parts.late


class Parts(NamedTuple):
    """What each ranker says of a question's J candidates, higher is better.

    words: BM25 as a share of the question's highest.
    """

    vectors: np.ndarray
    words: np.ndarray
    late: np.ndarray


def share_of_highest(bm25_I: Float[np.ndarray, " I"]) -> Float[np.ndarray, " I"]:
    """BM25 over its highest value; zeros where no text shares a word."""
    highest = bm25_I.max(initial=0.0)
    return bm25_I / highest if highest > 0 else np.zeros_like(bm25_I)


def learn(
    questions: Sequence[Parts], right_N: Int[np.ndarray, " N"], prior: float = 1e-3
) -> Fusion:
    """The weights of a conditional logit over each question's candidates.

    right_N: the place of the right one among a question's candidates. prior: of the squared weights, so that a part
    that says nothing gets nothing. Raises SearchError without questions.
    """
    from scipy.optimize import minimize

    if not len(questions):
        raise SearchError("no questions to learn the weights of a fusion from")
    # [candidates, parts], the right one's subtracted: the loss is log(sum(exp(x @ w))) with a 0 for itself.
    rows = [np.stack(parts, 1).astype(np.float64) for parts in questions]
    rows = [x_JF - x_JF[right] for x_JF, right in zip(rows, right_N, strict=True)]
    start = np.cumsum([0, *map(len, rows)])[:-1]
    x_TF, size = np.concatenate(rows), np.array([len(x) for x in rows])

    def loss(w_F: np.ndarray) -> tuple[float, np.ndarray]:
        s_T = x_TF @ w_F
        top_N = np.maximum.reduceat(s_T, start)
        e_T = np.exp(s_T - np.repeat(top_N, size))
        z_N = np.add.reduceat(e_T, start)
        p_T = e_T / np.repeat(z_N, size)
        value = (top_N + np.log(z_N)).mean() + prior * w_F @ w_F
        return float(value), x_TF.T @ p_T / len(rows) + 2 * prior * w_F

    begin = np.array([10.0, 1.0, 1.0])
    found = minimize(loss, begin, jac=True, bounds=[(0, None)] * 3, method="L-BFGS-B").x
    return Fusion(*(float(w) for w in found))

"""Floor 2: whether what was found answers the question at all: a probability, fitted on other tenants' questions.

    signs of a search      cosine and MaxSim of the first passage, its lead over the second and over the rest,
                           the share of the question's rare words that it holds, how many words the question has
    logistic regression -> probability that the first passages answer; below `threshold` one abstains

Signs are standardised by what they were on the questions of the fit. A business's own questions with their answers in
the index are "yes"; questions of another business, and own ones with the answer taken out, are "no".
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from jaxrec.calibration import sigmoid
from jaxrec.retrieval.passages.quotes import Found, Hit
from jaxrec.retrieval.passages.word_index import Language, stems
from jaxrec.retrieval.top_k import SearchError

SIGNS = ("cosine", "late", "lead", "apart", "covered", "words")


def signs(
    found: Found, language: Language = "en", hits: Sequence[Hit] | None = None
) -> Float[np.ndarray, " W"]:
    """The signs of a search, as `SIGNS` names them; zeros where nothing was found.

    found: what the index gave. language: of the index. hits: others than found.hits, best first.
    """
    hits = found.hits if hits is None else hits
    if not hits:
        return np.zeros(len(SIGNS))
    score = np.array([hit.score for hit in hits])
    cosine = np.array([hit.parts["vectors"] for hit in hits])
    top = hits[0]
    total = sum(found.rarity.values())
    own = set(stems(top.passage.indexed, language))
    held = sum(weight for stem, weight in found.rarity.items() if stem in own)
    return np.array(
        [
            cosine.max(),
            top.parts["late"],
            score[0] - score[1] if len(score) > 1 else 0.0,
            cosine.max() - cosine.mean(),
            held / total if total else 0.0,
            math.log1p(len(found.rarity)),
        ]
    )


@dataclasses.dataclass(frozen=True)
class Abstention:
    """A fitted judgement; threshold: the probability below which one abstains. Plain numbers, for JSON."""

    weights: tuple[float, ...]
    bias: float
    mean: tuple[float, ...]
    spread: tuple[float, ...]
    threshold: float

    def probability(self, signs_NW: Float[np.ndarray, "N W"]) -> Float[np.ndarray, " N"]:
        """That what was found answers."""
        z_NW = (signs_NW - np.array(self.mean)) / np.array(self.spread)
        return sigmoid(z_NW @ np.array(self.weights) + self.bias)

    def answers(self, found: Found, language: Language = "en") -> bool:
        """Whether to answer from what was found; nothing found is not answered from."""
        own = signs(found, language)
        return bool(found.hits) and float(self.probability(own[None])[0]) >= self.threshold


def fit_abstention(
    signs_NW: Float[np.ndarray, "N W"],
    answered_N: Bool[np.ndarray, " N"],
    refused: float = 0.95,
    prior: float = 1e-2,
) -> Abstention:
    """A logistic regression of `answered_N` on the signs, both kinds weighing alike.

    signs_NW: of N searches. answered_N: whether what was found answers.
    refused: the share of the questions without an answer that the threshold refuses. prior: of the squared weights.
    Raises SearchError where either kind is absent.
    """
    from scipy.optimize import minimize

    if answered_N.all() or not answered_N.any():
        raise SearchError(
            "questions with an answer and without are both needed to learn when to abstain"
        )
    mean, spread = signs_NW.mean(0), signs_NW.std(0) + 1e-6
    z_NW = (signs_NW - mean) / spread
    sign_N = np.where(answered_N, 1.0, -1.0)
    weight_N = np.where(answered_N, 0.5 / answered_N.sum(), 0.5 / (~answered_N).sum())

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        margin_N = sign_N * (z_NW @ w[:-1] + w[-1])
        slope_N = -weight_N * sign_N * sigmoid(-margin_N)
        value = weight_N @ np.logaddexp(0.0, -margin_N) + prior * w[:-1] @ w[:-1]
        return float(value), np.append(z_NW.T @ slope_N + 2 * prior * w[:-1], slope_N.sum())

    w = minimize(loss, np.zeros(z_NW.shape[1] + 1), jac=True, method="L-BFGS-B").x
    plain = lambda x: tuple(float(v) for v in x)
    made = Abstention(plain(w[:-1]), float(w[-1]), plain(mean), plain(spread), 0.0)
    p_N = made.probability(signs_NW[~answered_N])
    return dataclasses.replace(made, threshold=float(np.quantile(p_N, refused)))

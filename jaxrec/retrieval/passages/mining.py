"""Floor 2: hard negatives: wrong texts that rankers put first, which a retriever learns most from (Karpukhin 2020)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxrec.retrieval.passages.fusion import Fusion, share_of_highest
from jaxrec.retrieval.passages.word_index import Language, WordIndex
from jaxrec.retrieval.top_k import SearchError


def word_scores(
    questions: Sequence[str], texts: Sequence[str], language: Language = "en"
) -> Float[np.ndarray, "N I"]:
    """BM25 of every text for every question, as a share of the question's highest."""
    index = WordIndex.build(texts, language)
    return np.stack([share_of_highest(index.scores(question)) for question in questions])


def hard_negatives(
    cosine_NI: Float[np.ndarray, "N I"],
    words_NI: Float[np.ndarray, "N I"],
    right_N: Int[np.ndarray, " N"],
    allowed_I: Bool[np.ndarray, " I"],
    count: int,
    fusion: Fusion | None = None,
) -> Int[np.ndarray, "N count"]:
    """The `count` wrong texts that vectors and words together put first, among the allowed ones.

    cosine_NI, words_NI: what both say. right_N: each question's text. allowed_I: which texts may be learned from.
    fusion: how much each counts; None: the usual weights. Raises SearchError where there are too few texts.
    """
    if allowed_I.sum() <= count:
        raise SearchError(f"{int(allowed_I.sum())} texts give no {count} negatives: fewer of these")
    fusion = fusion or Fusion()
    score_NI = fusion.vectors * cosine_NI + fusion.words * words_NI
    score_NI = np.where(allowed_I, score_NI, -np.inf)
    np.put_along_axis(score_NI, right_N[:, None], -np.inf, 1)
    first = np.argpartition(-score_NI, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(score_NI, first, 1), axis=1, kind="stable")
    return np.take_along_axis(first, order, 1)

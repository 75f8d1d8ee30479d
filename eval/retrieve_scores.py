"""What each ranker says of every text for every question of a set, and their fusion by weights of other questions."""

import dataclasses

import numpy as np

from jaxrec.data.question_sets import QuestionSet
from jaxrec.models.text.kept_vectors import TextVectors
from jaxrec.retrieval.passages.fusion import Fusion, Parts, learn
from jaxrec.retrieval.passages.late import PassageTokens, max_sim
from jaxrec.retrieval.passages.mining import word_scores


@dataclasses.dataclass(frozen=True)
class Scores:
    """Vectors and scores of N questions and I texts; tokens: of the questions and of the texts."""

    questions_ND: np.ndarray
    texts_ID: np.ndarray
    cosine_NI: np.ndarray
    words_NI: np.ndarray
    tokens: tuple[PassageTokens, PassageTokens] | None

    @classmethod
    def of(cls, data: QuestionSet, questions: TextVectors, texts: TextVectors) -> "Scores":
        """Of a set."""
        both = None
        if questions.tokens is not None and texts.tokens is not None:
            both = questions.tokens, texts.tokens
        cosine_NI = questions.vectors_ID @ texts.vectors_ID.T
        words_NI = word_scores(data.questions, data.texts)
        return cls(questions.vectors_ID, texts.vectors_ID, cosine_NI, words_NI, both)

    def late(self, n: int, rows: np.ndarray) -> np.ndarray:
        """MaxSim of question n and some texts; zeros without tokens."""
        if self.tokens is None:
            return np.zeros(len(rows), np.float32)
        asked, texts = self.tokens
        own = asked.codes_TW[asked.start_I[n] : asked.start_I[n + 1]].astype(np.float32)
        return max_sim(own, texts, rows)


def weighted(
    data: QuestionSet,
    scores: Scores,
    cosine_NI: np.ndarray,
    fold_N: np.ndarray,
    late: bool,
    shortlist: int,
) -> np.ndarray:
    """The fusion of a cosine, words and (if `late`) MaxSim, each fold by weights of the other folds' questions."""
    found = cosine_NI - 10.0  # what is in no shortlist stands behind it, by its cosine
    near, parts, place = [], [], []
    for n, (cosine_I, words_I) in enumerate(zip(cosine_NI, scores.words_NI, strict=True)):
        first_I = Fusion().vectors * cosine_I + Fusion().words * words_I
        rows = np.argsort(-first_I, kind="stable")[:shortlist]
        said = scores.late(n, rows) if late else np.zeros(len(rows), np.float32)
        near.append(rows)
        parts.append(Parts(cosine_I[rows], words_I[rows], said))
        at = np.flatnonzero(rows == data.right_N[n])
        place.append(int(at[0]) if len(at) else -1)
    place_N = np.array(place)
    for fold in np.unique(fold_N):
        others = np.flatnonzero((fold_N != fold) & (place_N >= 0))
        fusion = learn([parts[n] for n in others], place_N[others])
        share = max(fusion.vectors, 1e-9)
        said = f"{fusion.words / share:.3f}, late {fusion.late / share:.3f}"
        print(f"{data.name}, fold {fold}: vectors 1, words {said}", flush=True)
        for n in np.flatnonzero(fold_N == fold):
            found[n, near[n]] = fusion.score(parts[n])
    return found

"""Whose question it is, in one pooled index of many tenants: own p against the mean one, another tenant's, and none."""

from pathlib import Path

import numpy as np

from eval.retrieve_scores import Scores
from jaxrec import metrics, ranking
from jaxrec.config import RunError
from jaxrec.data.question_sets import TEST, TRAIN, QuestionSet
from jaxrec.models.text.kept_vectors import TextVectors
from jaxrec.models.text.retriever import load_retriever
from jaxrec.retrieval.passages.fusion import Fusion


def rows(
    folder: str, data: QuestionSet, scores: Scores, known: TextVectors
) -> tuple[list[dict], list[dict]]:
    """Rows of the held tenants' questions, and the differences to their own p with intervals over tenants.

    folder: OUT of `train.retriever`, trained with p. data: the tenants. scores: of their questions and pages. known:
    vectors of what is known of them. Raises RunError without such a retriever.
    """
    where = Path(folder) / "0" / "model"
    if not folder or not where.is_dir():
        raise RunError(f"there is no {where}: run train.retriever on these tenants first")
    model = load_retriever(where)
    p_UE = model.profiles(known.vectors_ID, data.shown_US, data.kind_US)
    part_N = data.part_N(0)
    asked = np.flatnonzero(part_N == TEST)
    who_N = data.tenant_N[asked]
    learned = np.unique(data.tenant_N[part_N == TRAIN])
    held = np.unique(who_N)
    other = dict(zip(held, np.roll(held, 1), strict=True))
    mean_E = p_UE[learned].mean(0)
    texts_ID = model.texts(scores.texts_ID)
    by = lambda p: model.questions(scores.questions_ND[asked], p) @ texts_ID.T
    fusion = Fusion()
    plain = fusion.vectors * scores.cosine_NI[asked] + fusion.words * scores.words_NI[asked]
    found = {
        "own p": by(p_UE[who_N]),
        "mean p": by(np.broadcast_to(mean_E, (len(asked), len(mean_E)))),
        "shuffled p": by(p_UE[[other[u] for u in who_N]]),
        "no p": by(None),
        "minilm": scores.cosine_NI[asked],
        "weighted, no p": plain,
    }
    rank = {name: ranking.ranks(s, data.right_N[asked]) for name, s in found.items()}
    made = [
        {"set": data.name, "row": name, "questions": len(asked), "texts": len(data.texts)}
        | {f"R@{k}": float((rank_N <= k).mean()) for k in (1, 5, 10)}
        | {"MRR": float((1 / rank_N).mean())}
        for name, rank_N in rank.items()
    ]
    return made, [
        _difference(rank["own p"], rank[name], who_N, name) for name in rank if name != "own p"
    ]


def _difference(own_N: np.ndarray, other_N: np.ndarray, who_N: np.ndarray, name: str) -> dict:
    _, at_N = np.unique(who_N, return_inverse=True)
    gain_N = (own_N == 1).astype(float) - (other_N == 1)
    over = metrics.ratio(np.bincount(at_N, gain_N), np.bincount(at_N).astype(float))
    return {
        "a": "own p",
        "b": name,
        "metric": "R@1",
        "diff": over.value,
        "lo": over.lo,
        "hi": over.hi,
    }

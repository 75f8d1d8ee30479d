"""Measure retrieval: words, vectors, their fusion, the trained projection, the late interaction; and when to abstain.

    JAXREC_DATA=... python -m eval.retrieve configs/retrieve/retrieve_bank.py

What is learned is never measured on what it was learned from: a question is ranked by the retriever of the fold that
left its text out, and by weights that the other folds' questions gave. Equal scores count against the right text.
"""

import dataclasses
import time
from pathlib import Path

import numpy as np

from eval import retrieve_abstention, retrieve_people, retrieve_speed
from eval.retrieve_scores import Scores, weighted
from jaxrec import config, metrics, ranking, results
from jaxrec.config import RunError
from jaxrec.data.question_sets import QuestionSet, QuestionSetConfig, read_question_set
from jaxrec.models.text.kept_vectors import read_vectors
from jaxrec.models.text.retriever import load_retriever
from jaxrec.retrieval.rerank import reciprocal_rank_fusion

AT = (1, 5, 10)


@dataclasses.dataclass(frozen=True)
class RetrieveConfig:
    """What is measured. JAXREC_DATA is needed for the public sets."""

    data: QuestionSetConfig = QuestionSetConfig()
    source: str = "minilm"  # the encoder of every row but those of `others`
    others: tuple[str, ...] = ()  # encoders that get a row of their own, "mpnet" say
    retriever: str = ""  # OUT of `train.retriever` on the same data; "": no rows of a projection
    late: bool = True  # rows with the late interaction
    shortlist: int = 50  # what the late interaction looks at
    strangers: tuple[str, ...] = ()  # sets whose questions this index has no answers to
    speed: int = 0  # passages of the index that is timed; 0: none
    cache: str = "~/.cache/jaxrec/passages"
    out: str = "results/retrieve"
    filename: str = "results.json"


def main(cfg: RetrieveConfig) -> list[dict]:
    """Writes the rows to OUT/FILENAME and gives them."""
    begin, data = time.perf_counter(), read_question_set(cfg.data)
    print(data.summary(), flush=True)
    late = cfg.late and cfg.data.kind != "tenants"
    read = lambda texts, source=cfg.source, late=late: read_vectors(
        texts, source, tokens=late, cache=cfg.cache
    )
    questions, texts = read(data.questions), read(data.texts)
    scores = Scores.of(data, questions, texts)
    if cfg.data.kind == "tenants":
        rows, paired = retrieve_people.rows(cfg.retriever, data, scores, read(data.known))
    else:
        rows, paired = rows_of(cfg, data, scores, read), []
    if cfg.strangers:
        rows += retrieve_abstention.rows(cfg.data.name, cfg.strangers, read)
    if cfg.speed:
        rows.append(retrieve_speed.row(texts, data, cfg.speed, cfg.source, late))
    results.print_table(rows)
    wall = time.perf_counter() - begin
    path = results.write_results(
        cfg.out, "retrieve", rows, paired, cfg, cfg.data.seed, wall, filename=cfg.filename,
        headline=None,
    )  # fmt: skip
    results.conclude([path])
    return rows


def rows_of(cfg: RetrieveConfig, data: QuestionSet, scores: Scores, read) -> list[dict]:
    """A row for each way to rank the texts of a set."""
    fold_N = test_folds(data)
    found = {
        "BM25": scores.words_NI,
        cfg.source: scores.cosine_NI,
        "RRF": rrf(scores.cosine_NI, scores.words_NI),
    }
    blend = lambda cosine, late: weighted(data, scores, cosine, fold_N, late, cfg.shortlist)
    found["weighted"] = blend(scores.cosine_NI, False)
    if scores.tokens is not None:
        found["weighted + late"] = blend(scores.cosine_NI, True)
    if cfg.retriever:
        projected = by_projection(cfg.retriever, data, scores, fold_N)
        found["projection"] = projected
        found["projection, weighted"] = blend(projected, False)
        if scores.tokens is not None:
            found["projection, weighted + late"] = blend(projected, True)
    for source in cfg.others:
        other = read(data.questions, source, False), read(data.texts, source, False)
        cosine = other[0].vectors_ID @ other[1].vectors_ID.T
        found |= {source: cosine, f"{source}, weighted": blend(cosine, False)}
    return [measured(data, name, score_NI) for name, score_NI in found.items()]


def measured(data: QuestionSet, name: str, score_NI: np.ndarray) -> dict:
    """A row of results, recall at rank 1 with its interval over questions."""
    rank_N = ranking.ranks(score_NI, data.right_N)
    first = metrics.ratio((rank_N == 1).astype(float), np.ones(len(rank_N)), draws=1000)
    row: dict = {"set": data.name, "row": name, "questions": len(rank_N), "texts": len(data.texts)}
    row |= {f"R@{k}": float((rank_N <= k).mean()) for k in AT}
    row |= {"MRR": float((1 / rank_N).mean()), "lo": first.lo, "hi": first.hi}
    return row | {"N@10": ranking.measures(rank_N, (10,))["N@10"]}


def test_folds(data: QuestionSet) -> np.ndarray:
    """The fold in which each question is tested."""
    return np.stack([data.part_N(fold) for fold in range(len(data.part_FI))]).argmax(0)


def by_projection(folder: str, data: QuestionSet, scores: Scores, fold_N: np.ndarray) -> np.ndarray:
    """Cosines after each fold's own projection. Raises RunError where OUT's folds are of another split."""
    found = np.zeros_like(scores.cosine_NI)
    for fold in range(len(data.part_FI)):
        where = Path(folder) / str(fold) / "model"
        if not where.is_dir():
            raise RunError(
                f"there is no {where}: run train.retriever on this set, or set retriever to ''"
            )
        model, mine = load_retriever(where), fold_N == fold
        asked = model.questions(scores.questions_ND[mine])
        found[mine] = asked @ model.texts(scores.texts_ID).T
    return found


def rrf(cosine_NI: np.ndarray, words_NI: np.ndarray, among: int = 100) -> np.ndarray:
    """Reciprocal ranks of both, among what either has in its first hundred; the others behind, by cosine."""
    found = cosine_NI - 10.0
    for n in range(len(cosine_NI)):
        first = [np.argsort(-x[n], kind="stable")[:among] for x in (cosine_NI, words_NI)]
        near = np.unique(np.concatenate(first))
        said = {"a": cosine_NI[n : n + 1, near], "b": words_NI[n : n + 1, near]}
        found[n, near] = reciprocal_rank_fusion(said, {"a": 1.0, "b": 1.0})[0]
    return found


if __name__ == "__main__":
    config.run(main, RetrieveConfig, __doc__)

"""When to say that the documents don't tell: questions of other businesses, and own ones whose answer was taken out.

The judgement is fitted on other businesses alone: of three sets, two give the fit and the third is measured.
"""

from collections.abc import Callable, Sequence

import numpy as np

from jaxrec.data.readers import retrieval_sets
from jaxrec.models.text.kept_vectors import TextVectors
from jaxrec.retrieval.passages.abstention import SIGNS, Abstention, fit_abstention, signs
from jaxrec.retrieval.passages.cutting import CutConfig
from jaxrec.retrieval.passages.document import Document
from jaxrec.retrieval.passages.encoder import TextEncoder
from jaxrec.retrieval.passages.folder import PassageIndexConfig
from jaxrec.retrieval.passages.fusion import Fusion
from jaxrec.retrieval.passages.index import PassageIndex
from jaxrec.retrieval.passages.quotes import Found

Read = Callable[[Sequence[str]], TextVectors]
ASKED = 400  # questions of a set, evenly drawn


def rows(name: str, strangers: Sequence[str], read: Read) -> list[dict]:
    """A row for each stranger, and one for answers that were taken out.

    name: of the set that is measured. strangers: the others, two at least. read: texts to vectors.
    """
    sets = {one: _Business(one, read) for one in dict.fromkeys((name, *strangers))}
    fit = fitted([sets[one] for one in strangers])
    mine = sets[name]
    own_NW, out_NW = mine.own(), mine.taken_out()
    made = []
    for stranger in strangers:
        foreign_NW = mine.asked_by(sets[stranger])
        limit = np.quantile(fit.probability(foreign_NW), 0.95)
        plain = np.quantile(foreign_NW[:, 0], 0.95)
        made.append(
            {"set": name, "row": f"abstention, questions of {stranger}", "questions": len(own_NW)}
            | {"kept@95": float((fit.probability(own_NW) > limit).mean())}
            | {"kept@95 by cosine": float((own_NW[:, 0] > plain).mean())}
            | {"refused": float((fit.probability(foreign_NW) < fit.threshold).mean())}
            | {"kept": float((fit.probability(own_NW) >= fit.threshold).mean())}
        )
    made.append(
        {"set": name, "row": "abstention, answer taken out", "questions": len(own_NW)}
        | {"AUROC": auroc(fit.probability(own_NW), fit.probability(out_NW))}
        | {"AUROC by cosine": auroc(own_NW[:, 0], out_NW[:, 0])}
    )
    print(dict(zip(SIGNS, (round(w, 2) for w in fit.weights), strict=True)), flush=True)
    return made


def fitted(businesses: Sequence["_Business"]) -> Abstention:
    """On each of them: own questions answered; those of the others, and own ones without their answer, not."""
    signs_NW, answered_N = [], []
    for one in businesses:
        own_NW, out_NW = one.own(), one.taken_out()
        foreign = [one.asked_by(other) for other in businesses if other is not one]
        signs_NW += [own_NW, out_NW, *foreign]
        answered_N += [np.full(len(own_NW), True)]
        answered_N += [np.full(len(x), False) for x in (out_NW, *foreign)]
    return fit_abstention(np.concatenate(signs_NW), np.concatenate(answered_N))


def auroc(yes_N: np.ndarray, no_N: np.ndarray) -> float:
    """The probability that a "yes" scores above a "no"; equal ones count half."""
    from scipy.stats import rankdata

    rank = rankdata(np.concatenate([yes_N, no_N]))[: len(yes_N)]
    return float((rank.sum() - len(yes_N) * (len(yes_N) + 1) / 2) / (len(yes_N) * len(no_N)))


class _Business:
    """A set as an index of its texts, a passage each."""

    def __init__(self, name: str, read: Read):
        one = retrieval_sets.read(name)
        step = max(len(one.queries) / ASKED, 1.0)
        drawn = [int(i * step) for i in range(min(ASKED, len(one.queries)))]
        self.questions = [one.queries[n] for n in drawn]
        self.right = [str(one.right_N[n]) for n in drawn]
        self._vectors = {q: v for q, v in zip(one.queries, _rows(read(one.queries)), strict=True)}
        texts = {t.strip(): v for t, v in zip(one.texts, _rows(read(one.texts)), strict=True)}
        # What the encoder says was read before; an index is given it by text.
        self.encoder = _lookup(texts)
        late = next(iter(texts.values()))[1] is not None
        config = PassageIndexConfig(
            cut=CutConfig(0, 10**7), fusion=Fusion(1.0, 0.2, 1.0 if late else 0.0)
        )
        documents = [Document(str(i), text, kind="plain") for i, text in enumerate(one.texts)]
        self.index = PassageIndex.build(name, documents, self.encoder, config)
        self._own: list[Found] | None = None

    def own(self) -> np.ndarray:
        """Signs of its own questions."""
        return np.stack([signs(found) for found in self._found()])

    def taken_out(self) -> np.ndarray:
        """Signs of its own questions as if their right texts were not there."""
        found = zip(self._found(), self.right, strict=True)
        left = [(f, [h for h in f.hits if h.passage.document != right]) for f, right in found]
        return np.stack([signs(f, hits=hits[:11]) for f, hits in left])

    def asked_by(self, other: "_Business") -> np.ndarray:
        """Signs of another's questions."""
        return np.stack([signs(found) for found in self._search(other)])

    def _found(self) -> list[Found]:
        if self._own is None:
            self._own = self._search(self)
        return self._own

    def _search(self, asking: "_Business") -> list[Found]:
        self.index.encoder = _lookup(asking._vectors)
        return self.index.search_all(asking.questions)


def _rows(vectors: TextVectors) -> list[tuple[np.ndarray, np.ndarray | None]]:
    tokens = vectors.tokens
    if tokens is None:
        return [(v, None) for v in vectors.vectors_ID]
    own = [tokens.codes_TW[a:b] for a, b in zip(tokens.start_I, tokens.start_I[1:], strict=False)]
    return list(zip(vectors.vectors_ID, own, strict=True))


def _lookup(known: dict[str, tuple[np.ndarray, np.ndarray | None]]) -> TextEncoder:
    vectors = lambda texts: np.stack([known[text][0] for text in texts])
    late = next(iter(known.values()))[1] is not None
    tokens = lambda texts: [known[text][1].astype(np.float32) for text in texts]
    return TextEncoder("read before", vectors, tokens=tokens if late else None)

"""Floor 4: the parts of a flow: vectors of texts, rankers that were fitted before or are now, personas, weights."""

import dataclasses
import itertools
import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from jaxrec import files
from jaxrec.data.histories import Histories, Holdout, Split
from jaxrec.people.personas import Personas, PersonasConfig, fit_personas
from jaxrec.people.preferences import DAY, preference_vectors
from jaxrec.recommenders.flow.pipeline import FlowParts, FlowSettings, FlowWeights, Pipeline, weigh
from jaxrec.recommenders.flow.query import Query
from jaxrec.recommenders.recommender import Recommender
from jaxrec.retrieval.catalog_vectors import embed_catalog

_log = logging.getLogger(__name__)
TREND_HALF_LIFE = 90 * DAY
GRID = (0.0, 0.25, 0.5, 1.0, 2.0)  # weights that are tried
AnyRecommender = TypeVar("AnyRecommender", bound=Recommender)


def fitted(
    folder: Path, kind: type[AnyRecommender], config: object, split: Split
) -> AnyRecommender:
    """The recommender of `folder` where it was made by this config for as many items; else fitted, and saved there."""
    if folder.is_dir():
        saved = kind.load(folder)
        if saved.config == config and len(saved.item_vectors()) == split.train.n_items:
            _log.info("%s is taken from %s", kind.kind, folder)
            return saved
        _log.info("%s holds another %s: fitted anew", folder, kind.kind)
    made = kind(config).fit(split.train, split.valid)
    made.save(folder)
    return made


def text_vectors(
    encode: Callable[[list[str]], np.ndarray],
    encoder: str,
    texts: Sequence[str],
    out: str | Path,
    *,
    progress: bool = False,
) -> Float[np.ndarray, "I D"]:
    """The vectors of all items' texts; zeros for an empty text. What a run that was stopped has embedded is kept.

    encode: texts to vectors, and its `dim`. encoder: its name. out: they lie in OUT/vectors-HASH, one folder for each
    encoder and list of texts; those of other texts are removed. progress: a bar on stderr.
    """
    made_from = files.content_hash("\0".join([encoder, *texts]), digits=16)
    folder = Path(out) / f"vectors-{made_from}"
    for other in Path(out).glob("vectors-*"):
        if other != folder:
            shutil.rmtree(other)
    kept = embed_catalog(
        list(texts),
        lambda part: encode(list(part)),
        folder,
        encoder=encoder or "MiniLM",
        dim=encode.dim,
        dtype="float32",
        progress=progress,
    )
    vectors_ID = np.array(kept.read(0, len(texts)), np.float32)
    vectors_ID[[not text.strip() for text in texts]] = 0.0
    return vectors_ID


def taste_of(vectors_ID: Float[np.ndarray, "I D"]) -> Callable[[Histories], np.ndarray]:
    """What people like at heart: the slowly fading mean of the vectors of what they took."""
    return lambda rows: preference_vectors(rows, vectors_ID).long_BE


def personas_of(
    vectors_UE: Float[np.ndarray, "U E"],
    terms: Iterable[tuple[int, str | tuple[str, ...]]],
    config: PersonasConfig,
    people: int = 1,
) -> Personas | None:
    """Personas of everybody who has a vector; None where there are not two for `people` people each."""
    there = np.flatnonzero(np.abs(vectors_UE).sum(1) > 0)
    k = min(config.k, len(there) // people, len(np.unique(vectors_UE[there], axis=0)))
    if k < 2:
        return None
    place = {row: n for n, row in enumerate(there.tolist())}
    own = ((place[row], text) for row, text in terms if row in place)
    return fit_personas(vectors_UE[there], own, dataclasses.replace(config, k=k))


def trend(rows: Histories, half_life: float = TREND_HALF_LIFE) -> Float[np.ndarray, " I"]:
    """How often each item was taken, an event counting half after `half_life` seconds; plainly without times."""
    weight_T = np.ones(len(rows.item_T))
    if rows.time_T is not None and len(rows.time_T):
        weight_T = 0.5 ** ((rows.time_T.max() - rows.time_T) / half_life)
    return np.bincount(rows.item_T, weights=weight_T, minlength=rows.n_items)


@dataclasses.dataclass(frozen=True)
class Tuned:
    """Chosen weights for requests without a query, and how often the held-out item is among the ten, in shares.

    hit: by these weights. popular: by popularity alone. rows: how many people were asked.
    """

    weights: FlowWeights
    hit: float
    popular: float
    rows: int


def choose_weights(
    parts: FlowParts, settings: FlowSettings, valid: Holdout, *, most: int = 400, seed: int = 0
) -> Tuned:
    """The weights of a small grid with the best N@10 over what people took last but one, nothing being asked.

    parts: fitted without the held-out events. At most `most` people are asked, drawn by `seed`.
    """
    drawn = np.sort(np.random.default_rng(seed).permutation(len(valid))[:most])
    valid = valid.take(drawn)
    pipeline, names = Pipeline(parts, settings), ("text", *parts.rankers)
    score_BI = {name: np.asarray(r.score(valid.histories)) for name, r in parts.rankers.items()}
    cases = []
    for row, target in enumerate(valid.target_B.tolist()):
        history = valid.histories.take(np.array([row]))
        found = pipeline.gather(
            history, Query(""), {name: score_I[row] for name, score_I in score_BI.items()}
        )
        parts_J = weigh(found.scores, FlowWeights(**dict.fromkeys(names, 1.0)))[1]
        cases.append((np.stack([parts_J[name] for name in names]), found.items == target))
    best, chosen, hit = -1.0, settings.weights, 0.0
    for weight in itertools.product(GRID, repeat=len(names)):
        places = [_place(np.array(weight) @ z_SJ, own_J) for z_SJ, own_J in cases]
        value = float(np.mean([1 / np.log2(p + 2) if p < 10 else 0.0 for p in places]))
        if any(weight) and value > best + 1e-9:
            values = dict(zip(names, weight, strict=True))
            best, chosen = value, dataclasses.replace(settings.weights, **values)
            hit = float(np.mean([p < 10 for p in places]))
    popular_I = parts.popular_I.astype(np.float64).copy()
    among = []
    for row, target in enumerate(valid.target_B.tolist()):
        left_I = popular_I.copy()
        left_I[valid.histories[row]] = -1.0
        among.append(int((left_I > left_I[target]).sum()) < 10)
    return Tuned(chosen, hit, float(np.mean(among)), len(valid))


def _place(total_J: np.ndarray, own_J: np.ndarray) -> int:
    """How many candidates stand before the held-out one; all of them where it was not found."""
    if not own_J.any():
        return 1 << 30
    return int(np.flatnonzero(own_J[np.argsort(-total_J, kind="stable")])[0])

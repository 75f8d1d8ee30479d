"""Floor 4: the parts of a flow and what they are fitted with: vectors of texts, rankers, personas, weights."""

import dataclasses
import itertools
import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from jaxrec import files, results
from jaxrec.data.histories import Histories, Holdout, Split
from jaxrec.people.personas import Personas, PersonasConfig, fit_personas
from jaxrec.people.preferences import DAY, preference_vectors
from jaxrec.recommenders.flow.pipeline import FlowParts, FlowSettings, FlowWeights, Pipeline, weigh
from jaxrec.recommenders.flow.query import Query
from jaxrec.recommenders.item_knn import ItemKNNConfig
from jaxrec.recommenders.recommender import Recommender
from jaxrec.retrieval.catalog_vectors import embed_catalog
from jaxrec.retrieval.trending import Trending

_log = logging.getLogger(__name__)
TREND_HALF_LIFE = 90 * DAY
LIST = 10
GRID = (0.0, 0.25, 0.5, 1.0, 2.0)  # weights that are tried
AnyRecommender = TypeVar("AnyRecommender", bound=Recommender)

# All candidates but near doubles are weighed. Where half of them went by diversity of texts, before any ranker was
# heard, the held-out item was among the ten in 12 % of cases on MovieLens-100K, and in 17 % where all stayed.
KEEPING_ALL = FlowSettings(candidates=200, diverse=200, duplicate=0.97, near=0.75)


@dataclasses.dataclass(frozen=True)
class FlowConfig:
    """What a flow is fitted with.

    encoder: "" for MiniLM of its package where it is installed, a folder or hub id, or "none": titles are sought by
      their words alone. Titles mostly in scripts other than Latin are sought by their words too, unless one is named.
    sequence: a sequence model is fitted ("auto": to `sequence_people` people or more with three events; "never").
    sequential: its SequentialConfig; None: SASRec, narrower and stopped sooner than for a table of results.
    personas: their number is at most one for `persona_people` people, whatever `personas.k`.
    settings: of the pipeline; the weights are chosen on what people took last, where at least `tuned_people` can be
      asked (at most `tuned_rows` are), else they stand.
    cluster: the address of a Ray cluster whose workers embed the titles (`jaxrec.cluster`); it changes no vector.
    """

    encoder: str = ""
    sequence: Literal["auto", "never"] = "auto"
    sequential: Any = None
    sequence_people: int = 200
    neighbours: ItemKNNConfig = ItemKNNConfig()
    personas: PersonasConfig = PersonasConfig(restarts=3)
    persona_people: int = 20
    settings: FlowSettings = dataclasses.field(default_factory=lambda: KEEPING_ALL)
    tuned_people: int = 50
    tuned_rows: int = 400
    seed: int = 0
    cluster: str = ""


def fit_or_load(
    folder: Path, kind: type[AnyRecommender], config: object, split: Split
) -> AnyRecommender:
    """The recommender of `folder` where it was made by this config for as many items; else fitted, and saved there.

    FOLDER-origin.json beside it says by which code, when and where it was fitted.

    folder: where it lies, or is saved. kind: the class of the recommender. config: its settings. split: histories
    to learn from, and the held-out events to stop by.
    """
    if folder.is_dir():
        saved = kind.load(folder)
        if saved.config == config and len(saved.item_vectors()) == split.train.n_items:
            _log.info("%s is taken from %s", kind.kind, folder)
            return saved
        _log.info("%s holds another %s: fitted anew", folder, kind.kind)
    made = kind(config).fit(split.train, split.valid)
    made.save(folder)
    files.write_json(origin_of(folder), results.origin())
    return made


def origin_of(folder: Path) -> Path:
    """Where it is kept by which code, when and where the recommender of a folder was fitted."""
    return folder.with_name(f"{folder.name}-origin.json")


def text_vectors(
    encode: Callable[[list[str]], np.ndarray],
    encoder: str,
    texts: Sequence[str],
    out: str | Path,
    *,
    progress: bool = False,
    address: str = "",
    load: Callable[[], Callable[[list[str]], np.ndarray]] | None = None,
) -> Float[np.ndarray, "I D"]:
    """The vectors of all items' texts; zeros for an empty text. What a run that was stopped has embedded is kept.

    encode: texts to vectors, and its `dim`. encoder: its name. out: they lie in OUT/vectors-HASH, one folder for each
    encoder and list of texts; those of other texts are removed. progress: a bar on stderr. address: of a cluster that
    embeds, by what `load` gives each worker.
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
        address=address,
        load=load,
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
    """Personas of everybody who has a vector; None where there are not two for `people` people each.

    vectors_UE: a vector of taste a person, all zeros where nothing is known. terms: (row of a person, word or words
    of what they took), by which groups are described. config: how many groups, and how they are made.
    """
    there = np.flatnonzero(np.abs(vectors_UE).sum(1) > 0)
    k = min(config.k, len(there) // people, len(np.unique(vectors_UE[there], axis=0)))
    if k < 2:
        return None
    place = {row: n for n, row in enumerate(there.tolist())}
    own = ((place[row], text) for row, text in terms if row in place)
    return fit_personas(vectors_UE[there], own, dataclasses.replace(config, k=k))


def trend(rows: Histories, half_life: float = TREND_HALF_LIFE) -> Float[np.ndarray, " I"]:
    """How often each item was taken, an event counting half after `half_life` seconds; plainly without times."""
    if rows.time_T is None or not len(rows.time_T):
        return np.bincount(rows.item_T, minlength=rows.n_items).astype(np.float64)
    trending = Trending(half_life)
    trending.count(rows.item_T, rows.time_T)
    items, heat = trending.heat(float(rows.time_T.max()), rows.n_items)
    out_I = np.zeros(rows.n_items)
    out_I[items] = heat
    return out_I


class HeldOut(NamedTuple):
    """Held-out people: each one's standardised scores of the candidates [S, J], and where the held-out item is [J]."""

    names: tuple[str, ...]
    cases: list[tuple[np.ndarray, np.ndarray]]

    def places(self, weights: FlowWeights) -> list[int]:
        """How many candidates stand before each held-out item; very many where it was not found."""
        weight_S = np.array([getattr(weights, name) for name in self.names])
        return [_place(weight_S @ z_SJ, own_J) for z_SJ, own_J in self.cases]


def ask(parts: FlowParts, settings: FlowSettings, held: Holdout) -> HeldOut:
    """What a pipeline finds for held-out people who ask for nothing. parts: fitted without what is held out."""
    pipeline, names = Pipeline(parts, settings), ("text", *parts.rankers)
    score_BI = {name: np.asarray(r.score(held.histories)) for name, r in parts.rankers.items()}
    cases = []
    for row, target in enumerate(held.target_B.tolist()):
        history = held.histories.take(np.array([row]))
        own = {name: score_I[row] for name, score_I in score_BI.items()}
        found = pipeline.gather(history, Query(""), own)
        z = weigh(found.scores, FlowWeights(**dict.fromkeys(names, 1.0)))[1]
        cases.append((np.stack([z[name] for name in names]), found.items == target))
    return HeldOut(names, cases)


def choose_weights(asked: HeldOut, start: FlowWeights) -> FlowWeights:
    """The weights of a small grid with the best N@10."""
    best, chosen = -1.0, start
    for weight in itertools.product(GRID, repeat=len(asked.names)):
        tried = dataclasses.replace(start, **dict(zip(asked.names, weight, strict=True)))
        gains = [1 / np.log2(p + 2) if p < LIST else 0.0 for p in asked.places(tried)]
        if any(weight) and np.mean(gains) > best + 1e-9:
            best, chosen = float(np.mean(gains)), tried
    return chosen


def popular_hits(popular_I: Float[np.ndarray, " I"], held: Holdout) -> float:
    """How often the held-out item is among the ten most popular that its person has not taken, as a share."""
    hits = []
    for row, target in enumerate(held.target_B.tolist()):
        left_I = popular_I.astype(np.float64)
        left_I[held.histories[row]] = -1.0
        hits.append(int((left_I > left_I[target]).sum()) < LIST)
    return float(np.mean(hits))


def _place(total_J: np.ndarray, own_J: np.ndarray) -> int:
    """How many candidates stand before the held-out one; all of them where it was not found."""
    if not own_J.any():
        return 1 << 30
    return int(np.flatnonzero(own_J[np.argsort(-total_J, kind="stable")])[0])


class VectorScores:
    """Scores z_u . v_i from kept vectors. Somebody without a kept one is read by the model itself, loaded then.

    people_UE: z of each person's whole history. items_IE: the items' vectors. load: gives the model that made them.
    """

    def __init__(
        self,
        people_UE: Float[np.ndarray, "U E"],
        items_IE: Float[np.ndarray, "I E"],
        load: Callable[[], Any],
    ):
        self.people_UE, self.items_IE, self._load = people_UE, items_IE, load

    @cached_property
    def model(self) -> Any:
        """The recommender with `encode`."""
        return self._load()

    def score(self, histories: Histories) -> Float[np.ndarray, "B I"]:
        """How well each item would come next."""
        known = bool((histories.user_B >= 0).all())
        z_BE = self.people_UE[histories.user_B] if known else self.model.encode(histories)
        return z_BE @ self.items_IE.T

    def save(self, path: str | Path) -> None:
        """Writes the vectors."""
        np.savez(path, people=self.people_UE, items=self.items_IE)

    @classmethod
    def load(cls, path: str | Path, load: Callable[[], Any]) -> "VectorScores":
        """What `save` wrote."""
        with np.load(path) as saved:
            return cls(saved["people"], saved["items"], load)

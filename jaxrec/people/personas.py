"""Floor 2: personas: clusters of people by k-means over their vectors, told by the words that their people use.

personas = fit_personas(vectors_UE, said, PersonasConfig(k=20))
personas.labels[personas.assign(vectors_BE)[0]]         "interested in starbucks, coffee, latte, morning, mug"
"""

import dataclasses
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxrec.config import RunError
from jaxrec.people.words import words

_log = logging.getLogger(__name__)


class PersonasError(RunError, ValueError):
    """Personas that can't be made, assigned or loaded, and why."""


@dataclasses.dataclass(frozen=True)
class PersonasConfig:
    """K-means with k-means++ starts, the best of `restarts`; labels of `words` words.

    A word that fewer than `min_people` of a cluster use does not describe it, nor one that they use less than `lift`
    times as often as everybody.
    """

    k: int = 20
    words: int = 5
    min_people: int = 2
    lift: float = 1.5
    restarts: int = 10
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Personas:
    """Cluster centres with their labels and how many people each had when they were made."""

    centres_KE: np.ndarray
    labels: tuple[str, ...]
    size_K: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def assign(self, vectors_BE: Float[np.ndarray, "B E"]) -> Int[np.ndarray, " B"]:
        """The nearest centre of each row, by Euclidean distance. Raises PersonasError for another width."""
        if vectors_BE.shape[1] != self.centres_KE.shape[1]:
            raise PersonasError(
                f"vectors of {vectors_BE.shape[1]} numbers, but these personas were made of "
                f"{self.centres_KE.shape[1]}: use vectors of the same model"
            )
        norm_K = np.square(self.centres_KE).sum(1)
        return (norm_K[None] - 2 * vectors_BE @ self.centres_KE.T).argmin(1)

    def save(self, folder: str | Path) -> None:
        """Writes personas.npz and personas.json."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "personas.npz", centres=self.centres_KE, size=self.size_K)
        text = json.dumps({"labels": self.labels}, ensure_ascii=False, indent=1)
        (folder / "personas.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "Personas":
        """What `save` wrote. Raises PersonasError where it is not there or not whole."""
        folder = Path(folder)
        try:
            labels = tuple(json.loads((folder / "personas.json").read_text("utf-8"))["labels"])
            with np.load(folder / "personas.npz") as arrays:
                made = cls(arrays["centres"], labels, arrays["size"])
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise PersonasError(f"no personas can be read from {folder}: {error}") from None
        if not len(made.labels) == len(made.centres_KE) == len(made.size_K):
            raise PersonasError(f"{folder}: labels and centres of different runs: make them anew")
        return made


def fit_personas(
    vectors_UE: Float[np.ndarray, "U E"],
    said: Iterable[tuple[int, str | tuple[str, ...]]] = (),
    config: PersonasConfig = PersonasConfig(),
) -> Personas:
    """Clusters people, and labels each cluster with the words of its people's texts.

    vectors_UE: finite, a row a person. said: (row, text) of their reviews or of the titles they took, or (row, terms)
    that stand as they are (categories, brands), any number each, in any order; read once. With fewer different people
    than k, k becomes their number and a warning says so. Raises PersonasError without people, with vectors that are not
    finite, and for k below 1.
    """
    _check(vectors_UE, config)
    distinct = len(np.unique(vectors_UE, axis=0))
    k = min(config.k, distinct)
    if k < config.k:
        _log.warning("%d personas, not %d: there are %d different people", k, config.k, distinct)
    found = k_means(vectors_UE, k, config)
    labels = _labels(found.labels_, said, k, config)
    size_K = np.bincount(found.labels_, minlength=k)
    return Personas(found.cluster_centers_.astype(np.float32), labels, size_K)


def k_means(vectors_UE: Float[np.ndarray, "U E"], k: int, config: PersonasConfig) -> Any:
    """scikit-learn's fitted KMeans."""
    from sklearn.cluster import KMeans

    means = KMeans(k, init="k-means++", n_init=config.restarts, random_state=config.seed)
    return means.fit(vectors_UE)


def _check(vectors_UE: np.ndarray, config: PersonasConfig) -> None:
    if not len(vectors_UE):
        raise PersonasError("there is nobody to make personas of")
    if not np.isfinite(vectors_UE).all():
        raise PersonasError("some vectors are not finite: train the model that gave them again")
    if config.k < 1:
        raise PersonasError(f"k is at least 1, not {config.k}")


def _labels(
    cluster_U: np.ndarray,
    said: Iterable[tuple[int, str | tuple[str, ...]]],
    k: int,
    config: PersonasConfig,
) -> tuple[str, ...]:
    """The best words of each cluster by TF-IDF, counted in people, so that one chatty person does not speak for all.

    TF is the share of the cluster's people who use the word, IDF the logarithm of all people over those who do. Words
    that the cluster uses hardly more than everybody (`lift`) are passed over, as long as there are others.
    """
    words_of: dict[int, set[str]] = defaultdict(set)
    for user, text in said:
        words_of[user].update(words(text) if isinstance(text, str) else text)
    everybody = Counter(word for used in words_of.values() for word in used)
    people_K: list[Counter[str]] = [Counter() for _ in range(k)]
    writers_K = [0] * k
    for user, used in words_of.items():
        people_K[cluster_U[user]].update(used)
        writers_K[cluster_U[user]] += 1
    labels = []
    for people, writers in zip(people_K, writers_K, strict=True):
        shares = {word: n / writers for word, n in people.items() if n >= config.min_people}
        usual = {word: everybody[word] / len(words_of) for word in shares}
        own = {word: s for word, s in shares.items() if s >= config.lift * usual[word]} or shares
        weight = {word: s * log((1 + len(words_of)) / everybody[word]) for word, s in own.items()}
        best = sorted(weight, key=lambda word: (-weight[word], word))[: config.words]
        labels.append("interested in " + ", ".join(best) if best else "interests unknown")
    return tuple(labels)

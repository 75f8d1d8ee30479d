"""Floor 2: how many personas: the elbow of the inertia names the neighbourhood, the silhouette decides in it."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxrec.cluster import map_shards
from jaxrec.people.personas import PersonasConfig, PersonasError, k_means

SILHOUETTE_ROWS = 5_000  # its cost is quadratic: more people than these are sampled


@dataclasses.dataclass(frozen=True)
class PersonaCount:
    """The chosen k, the elbow, and the two curves over `ks`."""

    k: int
    elbow: int
    ks: tuple[int, ...]
    inertia: tuple[float, ...]
    silhouette: tuple[float, ...]


def choose_k(
    vectors_UE: Float[np.ndarray, "U E"],
    ks: Sequence[int] = (2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 28, 32),
    config: PersonasConfig | None = None,
    *,
    address: str = "",
) -> PersonaCount:
    """Fits every k and chooses: of the elbow and the ks beside it, the one with the best silhouette.

    vectors_UE: a row a person. ks: to try. config: how each is fitted. address: of a cluster whose workers fit a k each
    (`jaxrec.cluster`); k-means adds up by threads, so the last digits of the two curves depend on a worker's cores.

    The elbow is where the curve of inertia is farthest below the line from its first to its last point, both axes
    scaled to 1 (Satopaa 2011). Raises PersonasError where fewer than three ks can be tried: k from 2 on, below the
    number of different people.
    """
    config = config or PersonasConfig()
    distinct = len(np.unique(vectors_UE, axis=0))
    ks = sorted({k for k in ks if 2 <= k < distinct})
    if len(ks) < 3:
        raise PersonasError(
            f"{distinct} different people leave the ks {ks} to try: three are needed"
        )
    tried = map_shards(
        functools.partial(_tried, vectors_UE, config),
        ks,
        address=address,
        name=lambda _, k: f"{k} personas",
    )
    inertia, silhouette = zip(*tried, strict=True)
    at = _elbow(np.array(ks, float), np.array(inertia))
    near = range(max(at - 1, 0), min(at + 2, len(ks)))
    best = max(near, key=lambda i: silhouette[i])
    return PersonaCount(ks[best], ks[at], tuple(ks), inertia, silhouette)


def plot_count(count: PersonaCount, path: str | Path) -> None:
    """Draws both curves against k into `path` (.png or .svg), the choice marked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(8, 3.2), dpi=110, layout="constrained")
    curves = (("inertia", count.inertia), ("silhouette", count.silhouette))
    for panel, (name, values) in zip(panels, curves, strict=True):
        panel.plot(count.ks, values, ".-", color="#2166ac")
        panel.axvline(
            count.elbow, color="#999999", linestyle=":", label=f"elbow, k = {count.elbow}"
        )
        panel.axvline(count.k, color="#b2182b", linestyle="--", label=f"chosen, k = {count.k}")
        panel.set_xlabel("k, number of personas")
        panel.set_title(name, fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=8, frameon=False)
    figure.savefig(path)
    pyplot.close(figure)


def _tried(vectors_UE: np.ndarray, config: PersonasConfig, k: int) -> tuple[float, float]:
    """Inertia and silhouette of k personas."""
    from sklearn.metrics import silhouette_score

    found = k_means(vectors_UE, k, config)
    rows = min(len(vectors_UE), SILHOUETTE_ROWS)
    score = silhouette_score(vectors_UE, found.labels_, sample_size=rows, random_state=config.seed)
    return float(found.inertia_), float(score)


def _elbow(x_K: np.ndarray, y_K: np.ndarray) -> int:
    fall = max(y_K[0] - y_K[-1], 1e-12)
    along_K, down_K = (x_K - x_K[0]) / (x_K[-1] - x_K[0]), (y_K[0] - y_K) / fall
    return int((down_K - along_K).argmax())

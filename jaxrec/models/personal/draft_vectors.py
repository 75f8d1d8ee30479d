"""Drafts as vectors: a frozen encoder's components, found on training texts, beside the surface it can't see."""

import dataclasses
from pathlib import Path

import numpy as np

from jaxrec.data.candidate_sets import TRAIN, CandidateSet
from jaxrec.data.surface import surface
from jaxrec.models.text.text_vectors import Texts, compressed, read_texts


@dataclasses.dataclass(frozen=True)
class DraftReading:
    """How drafts become vectors. source None: MiniLM of the PyPI package; components 0: all of them."""

    source: str | None = None
    layers: tuple[int, ...] = (-2, -1)
    limit: int = 96
    components: int = 48
    surface: bool = True
    cache: str = "~/.cache/jaxrec/texts"


def read_drafts(data: CandidateSet, fold: int, cfg: DraftReading) -> Texts:
    """z of every text of a set, scaled by what the fold's training texts are like."""
    z_ID = read_texts(
        data.texts, source=cfg.source, layers=cfg.layers, limit=cfg.limit, cache=Path(cfg.cache)
    ).z_cls_ID
    train = data.split_FN[fold] == TRAIN
    numbers = np.concatenate([data.context_N[train], data.candidate_NJ[train].ravel()])
    seen_I = np.zeros(len(data.texts), bool)
    seen_I[numbers[numbers >= 0]] = True
    parts = [compressed(z_ID, seen_I, cfg.components or z_ID.shape[1])]
    if cfg.surface:
        own = surface(data.texts)
        parts.append((own - own[seen_I].mean(0)) / (own[seen_I].std(0) + 1e-3))
    return Texts(np.concatenate(parts, 1).astype(np.float32))
